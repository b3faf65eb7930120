"""Files of rows that another tool wrote: which of a folder are meant, and what each row holds, read strictly."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.diagnose.behaviors.row_files import parse_json
from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Note

PACKED = (".gz", ".zst")
"""Endings of files that are compressed."""
_GZIP_BEGINS, _ZSTANDARD_BEGINS = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_KINDS = 3
"""Kinds of files that a message names."""
_MOST_FILES = 1000
"""Files that are counted for a message."""
MOST_COUNTED = 2**31 - 1
"""What a column of counts can hold."""


def find_files(paths: Sequence[Path], wanted: str, *patterns: str) -> list[Path]:
    """Return the files that are meant: those given, and of each folder those whose path in it matches a pattern, sorted.

    Args:
        paths: Files and folders, as the user gave them.
        wanted: What should have been given, for error messages.
        patterns: Of file names below a folder, such as `**/traces.jsonl`, which means `traces.jsonl.gz` and `traces.jsonl.zst` too.

    Raises:
        SourceError: A path does not exist (`no_such_file`), or a folder holds no such file (`no_source_files`).
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            packed = [f"{pattern}{end}" for pattern in patterns if pattern.endswith(".jsonl") for end in PACKED]
            inside = sorted({file for one in (*patterns, *packed) for file in path.glob(one) if file.is_file()}, key=_by_numbers)
            if not inside:
                raise SourceError(f"{path}: got a folder with {_contents(path)}; give {wanted}", code="no_source_files")
            found |= dict.fromkeys(inside)
        elif path.is_file():
            found[path] = None
        else:
            raise SourceError(f"{path}: no such file or folder; give {wanted}", code="no_such_file")
    return list(found)


def _contents(folder: Path) -> str:
    """Return which kinds of files a folder holds, the most frequent three, as words."""
    kinds = Counter("".join(file.suffixes[-2:] if file.suffix in PACKED else file.suffixes[-1:]) for file in _some_files(folder))
    if not kinds:
        return "no files"
    named = ", ".join(
        f"{count} {kind} file{'s' * (count > 1)}" if kind else f"{count} without an ending"
        for kind, count in kinds.most_common(_KINDS)
    )
    return f"{named}{' and others' if len(kinds) > _KINDS else ''}, none of them of this format by its name"


def _some_files(folder: Path) -> Iterator[Path]:
    return islice((file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")), _MOST_FILES)


def behavior_of_file(path: Path) -> str:
    """Return the name of a behavior that is called after its file: `gsm8k` for `runs/gsm8k.jsonl.gz`."""
    return re.sub(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|gz|zst|zip))+$", "", path.name, flags=re.IGNORECASE) or path.name


def refuse_same_names(files: Sequence[Path], behavior: str | None) -> None:
    """Refuse files of one name, which may be of several models, unless the user says that they are one behavior.

    Raises:
        SourceError: Code `same_name`.
    """
    names = [behavior_of_file(file) for file in files]
    if behavior is None and (doubled := [name for name in names if names.count(name) > 1]):
        raise SourceError(
            f"got {names.count(doubled[0])} files named {doubled[0]}; import each into a run of its own, or take them together as one behavior with "
            "--behavior NAME",
            code="same_name",
        )


def _by_numbers(path: Path) -> list[tuple[bool, int, str]]:
    """Order paths by the numbers in them, so that step 2 stands before step 10."""
    words = "".join(f"\0{c}\0" if not c.isdigit() else c for c in str(path)).split("\0")
    return [(word.isdigit(), int(word) if word.isdigit() else 0, word) for word in words if word]


@dataclass(slots=True)
class SourceRow:
    """One row of a file, with where it stands; not frozen for the reason of `ImportedSample`."""

    where: str
    """The file and the line, for messages."""
    values: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """Return what stands under a key; None where it is absent."""
        return self.values.get(key)

    def require(self, *keys: str, wanted: str) -> None:
        """Refuse a row that lacks one of these keys.

        Raises:
            SourceError: The row is of another format (`not_this_format`).
        """
        if lacking := [key for key in keys if key not in self.values]:
            raise SourceError(
                f"{self.where}: got a row with the keys {shorten(', '.join(self.values) or 'none', 100)}, without {', '.join(lacking)}; give {wanted}",
                code="not_this_format",
            )

    def number(self, key: str) -> float | None:
        """Return a number as `read_number` does; None where it is absent, null or NaN.

        Raises:
            SourceError: It is something else, or infinite (`invalid_number`).
        """
        return read_number(self.values.get(key), f"{self.where}: {key}")

    def whole(self, key: str) -> int | None:
        """Return a whole number; None where it is absent or null.

        Raises:
            SourceError: It is something else (`invalid_number`).
        """
        value = self.number(key)
        if value is not None and not value.is_integer():
            raise SourceError(f"{self.where}: {key}: got {value:g}; allowed are whole numbers", code="invalid_number")
        return None if value is None else int(value)

    def name(self, key: str) -> str:
        """Return a whole number as text; the empty text where it is absent or null.

        Raises:
            SourceError: It is something else (`invalid_number`).
        """
        value = self.whole(key)
        return "" if value is None else str(value)

    def count(self, key: str) -> int | None:
        """Return a count as `read_count` does; None where it is absent, null or NaN.

        Raises:
            SourceError: It is something else (`invalid_number`).
        """
        return read_count(self.values.get(key), f"{self.where}: {key}")

    def text(self, key: str) -> str | None:
        """Return a text; None where it is absent or null.

        Raises:
            SourceError: It is something else (`invalid_text`).
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise SourceError(f"{self.where}: {key}: got {shorten(value)}; allowed is a text", code="invalid_text")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """Return an object; empty where it is absent or null.

        Raises:
            SourceError: It is something else (`invalid_object`).
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise SourceError(f"{self.where}: {key}: got {shorten(value)}; allowed is an object", code="invalid_object")
        return value or {}

    def inside(self, key: str) -> SourceRow:
        """Return the object under a key as a row of its own; an empty one where it is absent or null.

        Raises:
            SourceError: It is something else (`invalid_object`).
        """
        return SourceRow(f"{self.where}: {key}", self.mapping(key))

    def items(self, key: str) -> list[Any]:
        """Return a list; empty where it is absent or null.

        Raises:
            SourceError: It is something else (`invalid_list`).
        """
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise SourceError(f"{self.where}: {key}: got {shorten(value)}; allowed is a list", code="invalid_list")
        return value or []

    def objects(self, key: str) -> list[SourceRow]:
        """Return the objects of a list as rows of their own; none where it is absent or null. What is no object is passed over.

        Raises:
            SourceError: It is no list (`invalid_list`).
        """
        return [SourceRow(f"{self.where}: {key} {i}", one) for i, one in enumerate(self.items(key)) if isinstance(one, Mapping)]


def read_number(value: Any, where: str) -> float | None:
    """Return a number, 1 and 0 for true and false; None for null and NaN. A text that is a number counts as one.

    Raises:
        SourceError: It is something else, or infinite (`invalid_number`).
    """
    number = as_float(value)
    if number is None or math.isinf(number):
        raise SourceError(
            f"{where}: got {shorten(value)}; allowed are finite numbers, and null where there is none", code="invalid_number"
        )
    return None if math.isnan(number) else number


def read_count(value: Any, where: str) -> int | None:
    """Return how many there are of something, such as tokens; None for null and NaN.

    Raises:
        SourceError: It is no whole number from 0 to 2 147 483 647 (`invalid_number`).
    """
    number = read_number(value, where)
    if number is not None and not (0 <= number <= MOST_COUNTED and number.is_integer()):
        raise SourceError(
            f"{where}: got {shorten(value)}; allowed are whole numbers from 0 to {MOST_COUNTED}", code="invalid_number"
        )
    return None if number is None else int(number)


def as_float(value: Any) -> float | None:
    """Return a number, or a text that is one, as float: NaN for null, infinity for a number beyond all floats; None for anything else."""
    if value is None:
        return math.nan
    if isinstance(value, (int, float, str, Decimal)):
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except ValueError:
            return None
    return None


@dataclass(slots=True)
class RowReader:
    """Reads files of rows one after another, and keeps what was passed over.

    Call it with a file to get its rows.
    """

    notes: list[Note] = field(default_factory=list)

    def json_lines(self, path: Path) -> Iterator[SourceRow]:
        """Yield the rows of a file with one JSON object per line, as it is or compressed with gzip or Zstandard, whatever its name says.

        A last line without an end that is no whole object is passed over with a note: its writer was stopped, or is still writing. So is what
        follows the last whole line of a compressed file that ends too early.

        Raises:
            SourceError: The file is no text (`unreadable_file`), or a line is no object (`invalid_json`).
        """
        number = 0
        try:
            with open_lines(path) as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.isspace():
                        try:
                            row = parse_json(line.removeprefix(BOM_UTF8) if number == 1 else line, _replace_halves)
                        except (ValueError, RecursionError) as error:
                            if not line.endswith(b"\n") and number > 1:
                                self.notes.append(
                                    Note(
                                        "torn_line",
                                        f"{path.name}: the last line is not whole and was passed over; its writer was stopped",
                                    )
                                )
                                return
                            if isinstance(error, UnicodeDecodeError):
                                raise SourceError(
                                    f"{path}:{number}: cannot be read as UTF-8 text ({error}); write the file as UTF-8",
                                    code="unreadable_file",
                                ) from None
                            raise SourceError(
                                f"{path}:{number}: not JSON ({error}); a line holds one object", code="invalid_json"
                            ) from None
                        if not isinstance(row, dict):
                            raise SourceError(
                                f"{path}:{number}: got {shorten(row)}; a line holds one object", code="invalid_json"
                            )
                        yield SourceRow(f"{path}:{number}", row)
        except (OSError, EOFError, zlib.error) as error:
            if not number or not _ends_too_early(error):
                raise SourceError(f"{path}: cannot be read after line {number} ({error})", code="unreadable_file") from None
            text = f"{path.name}: the file ends too early; what follows its line {number} is not known: its writer was stopped, or it was not copied whole"
            self.notes.append(Note("torn_file", text))

    def parquet(self, path: Path) -> Iterator[SourceRow]:
        """Yield the rows of a parquet file.

        Raises:
            SourceError: It is none (`unreadable_file`).
        """
        try:
            batches = pq.ParquetFile(path).iter_batches(1024)
            number = 0
            for batch in batches:
                for row in batch.to_pylist():
                    yield SourceRow(f"{path}: row {number}", row)
                    number += 1
        except (pa.ArrowException, OSError) as error:
            reason = shorten(" ".join(str(error).split()), 120)
            raise SourceError(f"{path}: cannot be read as parquet ({reason})", code="unreadable_file") from None


@dataclass(slots=True)
class RepeatedRows:
    """Finds rows that stand in the files twice, as where a file was copied, or a run went on and wrote again what was there."""

    number: int = 0
    """Of rows that were there before."""
    _seen: set[tuple[Any, ...]] = field(default_factory=set)

    def is_again(self, row: SourceRow, *telling: Any) -> bool:
        """Return whether the same row was there before.

        Args:
            row: The row.
            telling: What tells its sample from all others, such as its id or its number. Without it, or where a part of it is None, equal rows may
                be samples that came out alike, and none is a repeat.
        """
        if not telling or None in telling:
            return False
        key = (*map(str, telling), hash(repr(row.values)))
        known = key in self._seen
        self._seen.add(key)
        self.number += known
        return known

    @property
    def notes(self) -> list[Note]:
        """Return what a reader of the report must know."""
        return [Note("repeated_rows", f"{self.number} rows that stand in the files twice are taken once.")] if self.number else []


def _ends_too_early(error: Exception) -> bool:
    """Return whether a compressed file ends before its end: Arrow has no error of its own for that."""
    return isinstance(error, EOFError) or "truncated" in str(error).lower()


def open_lines(path: Path) -> IO[bytes]:
    """Open a file of lines, which may be compressed: its first bytes tell, as names may be wrong.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        begins = file.read(4)
    if begins.startswith(_GZIP_BEGINS):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if begins == _ZSTANDARD_BEGINS:
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _replace_halves(value: Any) -> Any:
    """Replace halves of surrogate pairs, which no file of UTF-8 can hold, by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_replace_halves(key): _replace_halves(inner) for key, inner in value.items()}
    return [_replace_halves(inner) for inner in value] if isinstance(value, list) else value
