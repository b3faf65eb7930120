"""A flipped bit in a stored file is noticed, or changes nothing of what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.storage.files import MARK, read_json, write_json, write_parquet
from posttrain.diagnose.storage.shard_file import read_shard


def outcome(path: Path, read: Callable[[Path], Any]) -> Any:
    """Return what is read, or None where it is refused."""
    try:
        return read(path)
    except UserError:
        return None


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_flipped_bit_in_any_byte_of_a_shard_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path, table = tmp_path / "rollouts" / "a.parquet", pa.table({"text": ["x", "yy"], "score": [0.5, 1.0]})
    record = {"part": "rollouts/a", "seconds": 1.0, "generated_tokens": 3, "scored_tokens": 0, "samples": 2}
    write_parquet(path, table, record)
    content = path.read_bytes()

    def read(path: Path) -> Any:
        shard = read_shard(path)
        return shard.table().to_pylist(), shard.record

    wanted, noticed = read(path), 0
    mark = content.index(MARK)
    bits = [byte * 8 + byte % 8 for byte in range(len(content))]  # one of every byte, and all of those around the checksum
    bits += [byte * 8 + bit for byte in range(mark - 20, mark + 100) for bit in range(8)]
    for bit in bits:
        path.write_bytes(flipped(content, bit))
        found = outcome(path, read)
        noticed += found is None
        assert found in (None, wanted), bit
    assert noticed > 0.99 * len(bits)


def test_every_flipped_bit_of_a_json_file_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "sums", "numbers": [0.1, 1, -2.5e-7, None], "nested": {"ä": True, "b": False}})
    content, wanted = path.read_bytes(), read_json(path)
    noticed = 0
    for bit in range(len(content) * 8):
        path.write_bytes(flipped(content, bit))
        found = outcome(path, read_json)
        noticed += found is None
        # A flipped key of the checksum leaves a file without one, whose content is the same.
        assert found is None or {key: value for key, value in found.items() if key in wanted} == wanted, bit
    assert noticed > 0.8 * len(content) * 8
