"""Encoded rows kept on disk, so that a data set is tokenised once and not at every start.

They lie in `encoded/` of the cache folder (`POSTTRAIN_CACHE`, else `~/.cache/posttrain`), one file for what the key names: the file's
content, the tokenizer with its chat template, and how rows are written. A file appears whole or not at all, and one that is damaged is made
again. What was not used for 30 days is deleted; the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.diagnose.engines.chat_template import TEMPLATE_DATE
from posttrain.diagnose.engines.models.model_source import cache_dir
from posttrain.diagnose.storage.files import write_bytes
from posttrain.diagnose.types import Split
from posttrain.trainers.training_types import RowRole, TrainingRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 3
"""To be raised when rows are encoded otherwise, or stored otherwise."""
_SECONDS_KEPT = 30 * 86400
_DIGEST_SIZE = hashlib.sha256().digest_size
_TEXTS = ("behavior", "problem_id", "group_id", "text")
_LISTS = {"prompt_ids": pa.int32(), "completion_ids": pa.int32(), "step_ends": pa.int32(), "step_scores": pa.float64()}
_NUMBERS = ("weight", "margin")
_SCHEMA = pa.schema(
    [
        *((name, pa.float64()) for name in _NUMBERS),
        *((name, pa.string()) for name in (*_TEXTS, "role")),
        *((name, pa.list_(kind)) for name, kind in _LISTS.items()),
        ("token_weights", pa.list_(pa.float32())),
    ]
)


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of what a tokenizer does with texts and chats: its vocabulary and rules, special tokens, and chat template."""
    from transformers import __version__ as transformers_version

    parts = (
        tokenizer.backend_tokenizer.to_str(),
        json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str),
        json.dumps(tokenizer.chat_template),
        transformers_version,
    )
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def cached_rows(
    key: Sequence[object], make: Callable[[], Sequence[TrainingRow]], *, folder: Path | None = None
) -> tuple[TrainingRow, ...]:
    """Return rows that were stored under a key, or make and store them.

    Where they cannot be stored (a full disk, a folder that is not writable) they are made at every start.

    Args:
        key: All that the rows depend on.
        make: Gives the rows. What it raises is raised, and nothing is stored.
        folder: Where they lie; by default in the cache folder.
    """
    folder = folder or cache_dir() / "encoded"
    name = hashlib.sha256(json.dumps([FORMAT, version("posttrain"), str(TEMPLATE_DATE), *map(str, key)]).encode()).hexdigest()
    path = folder / f"{name}.rows"
    found = _read(path)
    if found is None:
        found = tuple(make())
        with suppress(OSError):
            _write(path, found)
            _delete_old(folder)
    return found


def _read(path: Path) -> tuple[TrainingRow, ...] | None:
    """Return the rows of a file; None where there is none, or it does not hold what was written."""
    try:
        content = path.read_bytes()
        table, digest = memoryview(content)[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
        if hashlib.sha256(table).digest() != digest:
            return None
        os.utime(path)
        return _rows(pq.read_table(pa.py_buffer(table)))
    except OSError:
        return None


def _rows(table: pa.Table) -> tuple[TrainingRow, ...]:
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in (*_TEXTS, *_NUMBERS, "role")}
    columns |= {name: [tuple(values or ()) for values in _lists(table[name])] for name in _LISTS}
    weights = [None if values is None else np.array(values, dtype=np.float32) for values in _lists(table["token_weights"])]
    names = (*_TEXTS, *_NUMBERS, *_LISTS)
    return tuple(
        TrainingRow(split=Split.TRAIN, role=RowRole(role), token_weights=weight, **dict(zip(names, values, strict=True)))
        for role, weight, *values in zip(columns["role"], weights, *(columns[name] for name in names), strict=True)
    )


def _lists(column: pa.ChunkedArray) -> list[list[Any] | None]:
    """Return a column of lists, quicker than by `to_pylist`."""
    whole = column.combine_chunks()
    array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    values, offsets, known = array.values.to_pylist(), array.offsets.to_pylist(), array.is_valid().to_pylist()
    bounds = zip(offsets[:-1], offsets[1:], known, strict=True)
    return [values[start:end] if is_known else None for start, end, is_known in bounds]


def _write(path: Path, rows: Sequence[TrainingRow]) -> None:
    """Write rows as parquet, and the SHA-256 of that behind it."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in _SCHEMA}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=_SCHEMA), sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    write_bytes(path, content + hashlib.sha256(content).digest())


def _delete_old(folder: Path) -> None:
    """Delete what was not used for long, and what a killed process left half written."""
    now = time.time()
    for path in folder.iterdir():
        if path.suffix in (".rows", ".tmp") and now - path.stat().st_mtime > (_SECONDS_KEPT if path.suffix == ".rows" else 86400):
            path.unlink(missing_ok=True)
