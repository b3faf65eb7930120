"""Files of rows, JSONL, JSON, CSV and parquet, read strictly: whatever cannot be read is named with its place and never skipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten

PARQUET, GZIP = ".parquet", ".gz"
_OF_TEXT = (".jsonl", ".ndjson", ".json", ".csv")
ROW_FILES = ".jsonl, .json, .csv (each also as .gz) or .parquet"
"""Files of rows, for messages."""
_COLUMNS_OF_NUMBERS = frozenset({"label", "weight", "margin"})
_COLUMNS_OF_JSON = _COLUMNS_OF_NUMBERS | {
    "references", "answers", "metadata", "choices", "options", "test_list", "kwargs", "instruction_id_list", "messages", "completions", "labels",
}  # fmt: skip
"""Columns whose cells in a CSV file are JSON."""


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


def row_suffix(path: Path) -> str:
    """Return which kind of file of rows a name says, such as `.csv` for `rows.csv.gz`; empty for another kind."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(GZIP)).suffix
    return suffix if suffix in (*_OF_TEXT, *(() if name.endswith(GZIP) else (PARQUET,))) else ""


def read_text(path: Path, wanted: str) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark; one named `.gz` is decompressed.

    Raises:
        BehaviorError: It cannot be read as such.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.name.lower().endswith(GZIP) else content).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BehaviorError(f"{path}: cannot be read as UTF-8 text ({error}); give {wanted}", code="unreadable_file") from None


def read_objects(path: Path, wanted: str, row_form: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Read the rows of a JSONL, JSON or CSV file: the number of each, from 1, where it stands, and its content.

    Numbers count lines in JSONL, where blank ones are passed over, elements of a JSON array, and rows below the header of a CSV file, whose empty
    cells are left out.

    Args:
        path: One object per line, an array of objects, or a table with a header.
        wanted: The file that should have been given, for error messages.
        row_form: What a row looks like, for error messages.

    Raises:
        BehaviorError: The file is missing or is no text, or a row is no object.
    """
    require_file(path, wanted)
    text, suffix = read_text(path, wanted), row_suffix(path)
    if suffix == ".csv":
        rows: Iterator[tuple[int, str, Any]] = _table_rows(text, path)
    elif suffix == ".json" and text.lstrip()[:1] == "[":
        rows = ((number, f"{path}: element {number}", row) for number, row in enumerate(_array(text, path), start=1))
    else:
        rows = _lines(text, path)
    may_hold_halves = _HALF.search(text) is not None
    for number, where, row in rows:
        if not isinstance(row, dict):
            raise BehaviorError(f"{where}: got {shorten(row)}; a row is an object {row_form}", code="not_an_object")
        if may_hold_halves:
            _refuse_half_characters(row, where)
        yield number, where, row


def _lines(text: str, path: Path) -> Iterator[tuple[int, str, Any]]:
    # Not splitlines(): a JSON string may hold characters such as U+2028 unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            form = "one object per line" + (", or an array of objects" if row_suffix(path) == ".json" else "")
            raise BehaviorError(f"{path}:{number}: not JSON ({error}); write {form}", code="invalid_json") from None
        yield number, f"{path}:{number}", row


def _array(text: str, path: Path) -> list[Any]:
    try:
        return list(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BehaviorError(
            f"{path}: not JSON ({error}); write an array of objects, or one object per line", code="invalid_json"
        ) from None


def _table_rows(text: str, path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield the rows of a CSV file as objects of texts; cells of columns that hold lists or objects are read as JSON."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if doubled := [name for name, count in Counter(header).items() if count > 1 or not name]:
            raise BehaviorError(
                f"{path}:1: got the column {doubled[0]!r} {'without a name' if not doubled[0] else 'twice'}; name each column once, in the first line",
                code="invalid_csv",
            )
        number = 0
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            where = f"{path}: row {number}"
            if len(cells) != len(header):
                raise BehaviorError(
                    f"{where}: got {len(cells)} cells for {len(header)} columns; write texts that hold commas or line ends in double quotes",
                    code="invalid_csv",
                )
            yield number, where, {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True) if cell.strip()}
    except csv.Error as error:
        raise BehaviorError(
            f"{path}:{reader.line_num}: not CSV ({error}); quote texts with double quotes, and double those within",
            code="invalid_csv",
        ) from None


def _cell(name: str, cell: str) -> Any:
    """Return a cell's text, or what it holds as JSON where the column holds a list, an object, a number or a truth value, or the prompt is a chat."""
    of_json = name in _COLUMNS_OF_JSON
    if not of_json and not (name == "prompt" and cell.strip()[0] == "["):
        return cell
    try:
        value = json.loads(cell.strip().lower() if name in _COLUMNS_OF_NUMBERS else cell)
    except (ValueError, RecursionError):
        return cell
    is_chat = isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value)
    return value if of_json or is_chat else cell


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Escapes of one half of a surrogate pair; two of them in a row are one character."""


def _refuse_half_characters(row: Mapping[str, Any], where: str) -> None:
    """Refuse half a surrogate pair, which is no character and cannot be written as UTF-8: no tokenizer reads it."""
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
