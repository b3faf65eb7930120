"""Files that appear whole or not at all: text, JSON with a checksum, and parquet with one.

The checksum of a parquet file covers every byte of it. It stands in the file's own metadata, as the last key: `MARK` and eight hexadecimal
digits, the CRC-32 of the file in which these digits are zeros.
"""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import is_
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import to_json

from posttrain.analysis.input_error import InputError
from posttrain.analysis.stored_json import AGAIN, CHECKSUM, VERSION, read_stored_json, with_checksum
from posttrain.diagnose.errors import RunError

METADATA_KEY = b"posttrain"
"""Under which a parquet file keeps what it is and what it took, as JSON."""
MARK = b"posttrain_crc32:"
"""What stands before the checksum of a parquet file."""
_NO_CHECKSUM = b"0" * 8
_LONG = 200
"""Entries of a list or an object from which on each stands on one line."""
AS_IN_JSON = frozenset({str, int, bool, NoneType})
"""Types whose values JSON has as they are."""
_STRING = frozenset({str})
_in_unicode = json.JSONEncoder(ensure_ascii=False).encode
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def temporary_name(path: Path) -> Path:
    """Return the name under which this process writes a file, before it gets its own."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_temporary(path: Path) -> bool:
    """Say whether a file has the name of one that is not written to the end."""
    return _TEMPORARY.fullmatch(path.name) is not None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; what could not be written to the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = temporary_name(path)
    try:
        with work.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        work.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        work.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as `write_text` does, with its version and checksum. NaN becomes null: JSON knows no NaN."""
    write_content(path, finite(value))


def write_content(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object whose values are those that JSON has, as `write_json` does."""
    plain = {key: value for key, value in content.items() if key != CHECKSUM}
    write_bytes(path, with_checksum(b"".join(_lay_out({"schema": VERSION, **plain}))))


def _lay_out(value: Any, margin: bytes = b"\n") -> Iterator[bytes]:
    """Yield JSON with one value per line, as `indent=1` gives it; of long lists and objects one entry per line."""
    inner = margin + b" "
    if isinstance(value, dict) and len(value) > _LONG:
        yield b"{" + inner + (b"," + inner).join(b"%b: %b" % (_encode(key), to_json(held)) for key, held in value.items())
        yield margin + b"}"
    elif isinstance(value, dict) and value:
        for begin, (key, held) in zip(chain([b"{"], repeat(b",")), value.items(), strict=False):
            yield b"%b%b%b: " % (begin, inner, _encode(key))
            yield from _lay_out(held, inner)
        yield margin + b"}"
    elif isinstance(value, list) and value:
        if len(value) > _LONG:
            yield b"[" + inner + (b"," + inner).join(map(to_json, value))
        else:
            for begin, held in zip(chain([b"["], repeat(b",")), value, strict=False):
                yield begin + inner
                yield from _lay_out(held, inner)
        yield margin + b"]"
    else:
        yield _encode(value)


def _encode(value: Any) -> bytes:
    return _in_unicode(value).encode()


def read_json(
    path: Path, *, remedy: str = AGAIN, versioned: bool = True, version: int = VERSION, sealed: bool = False
) -> dict[str, Any]:
    """Read what `write_json` wrote; arguments as for `read_stored_json`.

    Raises:
        RunError: It cannot be read, has changed since, or is of another version.
    """
    try:
        return read_stored_json(path, remedy=remedy, versioned=versioned, version=version, sealed=sealed)
    except InputError as error:
        raise RunError(str(error), code=error.code) from error


def finite(value: Any) -> Any:
    """Return a value as JSON has it: null for NaN and infinities, Python's numbers for numpy's, lists for tuples.

    An object or a list in which nothing changes is returned itself, not as a copy.
    """
    kind = type(value)
    if kind in AS_IN_JSON or (kind is float and math.isfinite(value)):
        return value
    if kind is dict and _STRING.issuperset(map(type, value)):
        changed = {key: new for key, held in value.items() if type(held) not in AS_IN_JSON and (new := finite(held)) is not held}
        return value | changed if changed else value
    if kind is list:
        rows = [held if type(held) in AS_IN_JSON else finite(held) for held in value]
        return value if all(map(is_, rows, value)) else rows
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


@dataclass(frozen=True, slots=True)
class StoredParquet:
    """A parquet file that was read into memory and found whole."""

    content: bytes
    record: dict[str, Any]
    """What it says of itself; empty where it says nothing."""
    has_checksum: bool
    footer: pq.FileMetaData

    @property
    def num_rows(self) -> int:
        """Return its number of rows."""
        return int(self.footer.num_rows)

    def table(self, columns: Sequence[str] | None = None, *, read_dictionary: Sequence[str] | None = None) -> pa.Table:
        """Return these columns in this order, all of them where None; those named in `read_dictionary` as dictionaries."""
        source = pa.BufferReader(self.content)
        with pq.ParquetFile(source, metadata=self.footer, read_dictionary=read_dictionary) as file:
            table = file.read(columns=columns, use_threads=False)
        return table if columns is None else table.select(list(columns))


def write_parquet(path: Path, table: pa.Table, record: Mapping[str, Any]) -> None:
    """Write a table as `write_bytes` does, with what it is (`record`) and a checksum."""
    # Dictionaries save space for names that repeat, not for log-probabilities; nothing searches rows by their statistics.
    names = [field.name for field in table.schema if pa.types.is_string(field.type)]
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps({"schema": VERSION, **record}).encode()})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=names, write_statistics=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({MARK.decode(): (MARK + _NO_CHECKSUM).decode()})
    content = sink.getvalue().to_pybytes()
    before, after = _around_checksum(content)
    write_bytes(path, b"".join((before, _crc32(before, after), after)))


def checksum_of_file(path: Path) -> str:
    """Return the CRC-32 of a file of any kind and size, as eight hexadecimal digits."""
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def read_parquet(path: Path) -> StoredParquet:
    """Read what `write_parquet` wrote. A parquet file without a checksum is read as it is.

    Raises:
        ValueError: It has changed since it was written, or is of another version.
        OSError, pa.ArrowException: It cannot be read, or is no parquet file.
    """
    content = path.read_bytes()
    has_checksum = content.rfind(MARK) >= 0
    if has_checksum:
        before, after = _around_checksum(content)
        if content[len(before) : len(content) - len(after)] != _crc32(before, after):
            raise ValueError("it has changed since it was written, its checksum is another")
    footer = pq.read_metadata(pa.BufferReader(content))
    record = json.loads((footer.metadata or {}).get(METADATA_KEY, b"{}"))
    if (version := record.get("schema", VERSION)) != VERSION:
        raise ValueError(f"it is of version {version}, this reads version {VERSION}")
    return StoredParquet(content, record, has_checksum, footer)


def _around_checksum(content: bytes) -> tuple[memoryview, memoryview]:
    """Return what stands before and behind the digits; in the file's metadata, behind all rows, they come last."""
    begin = content.rindex(MARK) + len(MARK)
    view = memoryview(content)
    return view[:begin], view[begin + len(_NO_CHECKSUM) :]


def _crc32(before: memoryview, after: memoryview) -> bytes:
    return b"%08x" % zlib.crc32(after, zlib.crc32(_NO_CHECKSUM, zlib.crc32(before)))
