"""Files of rows, JSONL and parquet, read strictly: whatever cannot be read is named with its place and never skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten


class RowError(BehaviorError):
    """A row holds a value that cannot be used."""

    default_code = "invalid_row"


def require_file(path: Path, wanted: str) -> None:
    """Refuse a path where there is no file, and say what is wanted.

    Raises:
        BehaviorError: There is none.
    """
    if not path.is_file():
        raise BehaviorError(f"{path}: no such file; give {wanted}", code="no_such_file")


def read_text(path: Path, wanted: str) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark.

    Raises:
        BehaviorError: It cannot be read as such.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BehaviorError(f"{path}: cannot be read as UTF-8 text ({error}); give {wanted}", code="unreadable_file") from None


def read_objects(path: Path, wanted: str, row_form: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a JSONL file with the numbers of their lines, from 1; blank lines are passed over.

    Args:
        path: One JSON object per line.
        wanted: The file that should have been given, for error messages.
        row_form: What a row looks like, for error messages.

    Raises:
        BehaviorError: The file is missing or is no text, or a line is no JSON object.
    """
    require_file(path, wanted)
    # Not splitlines(): a JSON string may hold characters such as U+2028 unescaped.
    for number, line in enumerate(read_text(path, wanted).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BehaviorError(f"{path}:{number}: not JSON ({error}); write one object per line", code="invalid_json") from None
        if not isinstance(row, dict):
            raise BehaviorError(f"{path}:{number}: got {shorten(row)}; a row is an object {row_form}", code="not_an_object")
        _refuse_half_characters(line, row, f"{path}:{number}")
        yield number, row


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Escapes of one half of a surrogate pair; two of them in a row are one character."""


def _refuse_half_characters(line: str, row: Mapping[str, Any], where: str) -> None:
    """Refuse half a surrogate pair, which is no character and cannot be written as UTF-8: no tokenizer reads it."""
    if not _HALF.search(line):
        return
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BehaviorError(
            f"{where}: got \\u{ord(error.object[error.start]):04x}, half of a surrogate pair, which is no character; write both halves, or leave it out",
            code="half_character",
        ) from None


def read_table(path: Path, wanted: str) -> pa.Table:
    """Read a parquet file.

    Raises:
        BehaviorError: It is missing, or is no parquet file.
    """
    require_file(path, wanted)
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BehaviorError(f"{path}: cannot be read as parquet ({reason}); give {wanted}", code="unreadable_file") from None
