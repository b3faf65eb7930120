"""Files of rows, JSONL, JSON, CSV, TSV and parquet, read strictly: whatever cannot be read is named with its place and never skipped."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic_core import from_json

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten

PARQUET, GZIP = ".parquet", ".gz"
_OF_TEXT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
ROW_FILES = ".jsonl, .json, .csv, .tsv (each also as .gz) or .parquet"
"""Files of rows, for messages."""
_COLUMNS_OF_NUMBERS = frozenset({"label", "weight", "margin"})
_COLUMNS_OF_JSON = _COLUMNS_OF_NUMBERS | {
    "references", "answers", "metadata", "choices", "options", "test_list", "kwargs", "instruction_id_list", "messages", "completions", "labels",
}  # fmt: skip
"""Columns whose cells in a CSV file are JSON."""
_OF_A_ROW = frozenset({"prompt", "question", "problem", "query", "instruction", "input", "text", "messages"})
"""Keys that make an object a row, and no file of rows."""


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
        raise BehaviorError(
            f"{path}: cannot be read as UTF-8 text ({error}); save it as UTF-8, or give {wanted}", code="unreadable_file"
        ) from None


def read_objects(path: Path, wanted: str, row_form: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Read the rows of a file: the number of each, where it stands, and its content.

    Numbers count, from 1, lines in JSONL, where blank ones are passed over, elements of a JSON array, and rows below the header of a CSV or TSV file,
    whose empty cells are left out; and rows of a parquet file from 0. Keys of a parquet row that hold null are left out: parquet has
    every key of any row in each of its objects.

    Args:
        path: One object per line, an array of objects (which may be the only list in an object), or a table with a header.
        wanted: The file that should have been given, for error messages.
        row_form: What a row looks like, for error messages.

    Raises:
        BehaviorError: The file is missing or is no text, or a row is no object.
    """
    if row_suffix(path) == PARQUET:
        yield from _parquet_rows(path, wanted)
        return
    require_file(path, wanted)
    text, suffix = read_text(path, wanted), row_suffix(path)
    if suffix in _DELIMITERS:
        rows: Iterator[tuple[int, str, Any]] = _table_rows(text, path)
    elif suffix == ".json" and (elements := _array(text, path)) is not None:
        rows = ((number, f"{path}: element {number}", row) for number, row in enumerate(elements, start=1))
    else:
        rows = _lines(text, path)
    may_hold_halves = _HALF.search(text) is not None
    for number, where, row in rows:
        if not isinstance(row, dict):
            raise BehaviorError(f"{where}: got {shorten(row)}; a row is an object {row_form}", code="not_an_object")
        if may_hold_halves:
            _refuse_half_characters(row, where)
        yield number, where, row


def parse_json(text: str | bytes, mend: Callable[[Any], Any] | None = None) -> Any:
    """Return what a text says as JSON, as `json.loads` does, in less time.

    Args:
        text: Bytes are UTF-8.
        mend: Called with what may hold halves of surrogate pairs, to return what is taken instead.

    Raises:
        ValueError, RecursionError: It is no JSON.
    """
    try:
        return from_json(text)
    except ValueError:  # which halves of surrogate pairs are too; and json says what is wrong in its own words
        found = json.loads(text if isinstance(text, str) else text.decode())
        return found if mend is None else mend(found)


def _lines(text: str, path: Path) -> Iterator[tuple[int, str, Any]]:
    # Not splitlines(): a JSON string may hold characters such as U+2028 unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            form = "one object per line" + (", or an array of objects" if row_suffix(path) == ".json" else "")
            raise BehaviorError(f"{path}:{number}: not JSON ({error}); write {form}", code="invalid_json") from None
        yield number, f"{path}:{number}", row


def _array(text: str, path: Path) -> list[Any] | None:
    """Return the elements of an array, or of the only list of objects in an object; None for one object per line."""
    begins = text.lstrip()[:1]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if begins != "[":
            return None
        raise BehaviorError(
            f"{path}: not JSON ({error}); write an array of objects, or one object per line", code="invalid_json"
        ) from None
    if isinstance(content, list):
        return content
    if isinstance(content, dict) and (rows := _turned(content)):
        return rows
    lists: list[list[Any]] = (
        [value for value in content.values() if _is_list_of_objects(value)] if isinstance(content, dict) else []
    )
    if len(lists) == 1 and not _OF_A_ROW & content.keys():
        return lists[0]
    if "\n" in text.strip():
        raise BehaviorError(
            f"{path}: one object over several lines, without a list of rows of its own; write an array of objects, or one object per line",
            code="invalid_json",
        )
    return None


def _turned(content: dict[str, Any]) -> list[Any]:
    """Return the rows of a table written by column, or by the name of each row, as pandas and datasets write them; none of another object."""
    parts = list(content.values())
    asked = next((value for name, value in content.items() if name.strip().lower() in _OF_A_ROW), None)
    if asked and isinstance(asked, dict) and all(isinstance(part, dict) and part.keys() == asked.keys() for part in parts):
        return [{name: part[row] for name, part in content.items()} for row in asked]
    if isinstance(asked, list) and all(isinstance(text, str) for text in asked):
        lists = [part for part in parts if isinstance(part, list) and len(part) == len(asked)]
        if len(lists) == len(parts):
            return [{name: part[row] for name, part in content.items()} for row in range(len(asked))]
    rows = [part for part in parts if isinstance(part, dict) and {name.strip().lower() for name in part} & _OF_A_ROW]
    return rows if len(rows) == len(parts) else []


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) and "role" not in one for one in value)


def without_nulls(value: Any) -> Any:
    """Return a value without the keys that hold null, in objects at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(held) for key, held in value.items() if held is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _parquet_rows(path: Path, wanted: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    number = 0
    for batch in read_table(path, wanted).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield number, f"{path}: row {number}", without_nulls(row)
            number += 1


def _table_rows(text: str, path: Path) -> Iterator[tuple[int, str, Any]]:
    """Yield the rows of a table as objects of texts; cells of columns that hold lists or objects are read as JSON."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    delimiter = _delimiter(text, path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    try:
        # Columns without a name, such as the row numbers that pandas writes, get the one that pandas gives them.
        header = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(next(reader, []))]
        if doubled := [name for name, count in Counter(header).items() if count > 1]:
            raise BehaviorError(
                f"{path}:1: got the column {doubled[0]!r} twice; name each column once, in the first line",
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
            yield number, where, {name: read_cell(name, cell) for name, cell in zip(header, cells, strict=True) if cell.strip()}
    except csv.Error as error:
        raise BehaviorError(
            f"{path}:{reader.line_num}: not CSV ({error}); quote texts with double quotes, and double those within",
            code="invalid_csv",
        ) from None


def _delimiter(text: str, path: Path) -> str:
    """Return what stands between cells: what the file's name says, or another one that stands in the header of a CSV file without a comma."""
    usual, header = _DELIMITERS[row_suffix(path)], text.lstrip("\n").partition("\n")[0]
    return next((mark for mark in ";\t|" if mark in header), usual) if usual == "," and "," not in header else usual


def read_written(text: str) -> Any:
    """Return the list or object that a text holds, as JSON or as Python writes it; the text itself where it holds none."""
    if text.strip()[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:  # as pandas writes lists
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return text


def read_cell(name: str, cell: str) -> Any:
    """Return a cell's text, or what it holds as JSON where the column holds a list, an object, a number or a truth value, or the prompt is a chat."""
    of_json = name in _COLUMNS_OF_JSON
    if not of_json and not (name == "prompt" and cell.strip()[0] == "["):
        return cell
    try:
        value = json.loads(cell.strip().lower()) if name in _COLUMNS_OF_NUMBERS else read_written(cell)
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
