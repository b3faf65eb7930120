"""Where rows to train on come from: a file, or a data set as `hf:NAME[:CONFIG][:SPLIT]`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.hub_data import FORM, is_hub_data, open_hub_data, parse_hub_data, read_hub_rows
from posttrain.diagnose.behaviors.row_files import ROW_FILES, read_cell, read_objects, require_file, row_suffix
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import closest

_DEFAULT_SPLIT = "train"
"""The split to learn from where none is named; another one is never taken in its place."""


TRAINED_COLUMNS = (
    "prompt", "completion", "chosen", "rejected", "label", "completions", "labels", "messages", "text", "system", "weight", "margin", "tools",
    "chat_template_kwargs",
)  # fmt: skip
"""What a user may say a column of rows to train on holds."""


@dataclass(frozen=True, slots=True)
class MappedRows:
    """Rows whose columns a user names."""

    source: str
    """A file, or `hf:NAME[:CONFIG][:SPLIT]`."""
    columns: Mapping[str, str]
    """Our name (one of `TRAINED_COLUMNS`) → the column; the other way round is understood too, where only that makes sense."""

    def __str__(self) -> str:
        """Return where the rows are."""
        return self.source


RowSource = str | Path | MappedRows
"""Where rows to train on are."""


def check_row_source(source: RowSource, option: str = "--data") -> None:
    """Refuse rows that are not there, before they are read.

    Args:
        source: A file, or `hf:NAME[:CONFIG][:SPLIT]`. A data set that is not in the cache is downloaded.
        option: What names them on the command line.

    Raises:
        BehaviorError: There is no such file (`no_such_file`), or no such data set or split (see `read_hub_rows`).
    """
    place = str(source)
    if is_hub_data(place):
        open_hub_data(parse_hub_data(place, Path()), default_split=_DEFAULT_SPLIT)
    else:
        require_file(Path(place), f"a {ROW_FILES} file of rows, or {FORM}, as {option}")


def row_source_name(source: RowSource) -> str:
    """Return a short name: that of the file, or of the data set with its configuration and split."""
    place = str(source)
    return parse_hub_data(place, Path()).behavior_name if is_hub_data(place) else Path(place).name


def fingerprint_row_source(source: RowSource) -> str:
    """Return the SHA-256 of a file's content, or of the rows of a data set, and of which column holds what, in hexadecimal digits."""
    if isinstance(source, MappedRows):
        content = [fingerprint_row_source(source.source), sorted(source.columns.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
    if not is_hub_data(source):
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256()
    for _, row in read_row_source(source, wanted="", row_form=""):
        found.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return found.hexdigest()


def read_row_source(source: RowSource, wanted: str, row_form: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read rows: where each stands, and its content.

    Args:
        source: A file, or `hf:NAME[:CONFIG][:SPLIT]`, of which the split `train` is read where none is named.
        wanted: The file that should have been given, for error messages.
        row_form: What a row looks like, for error messages.

    Raises:
        BehaviorError: They cannot be read; a file of another kind has the code `unsupported_file`, and a column that is not there `unknown_column`.
    """
    if isinstance(source, MappedRows):
        yield from _renamed(source, list(read_row_source(source.source, wanted, row_form)))
        return
    if is_hub_data(source):
        for _, where, row in read_hub_rows(parse_hub_data(str(source), Path()), default_split=_DEFAULT_SPLIT).rows:
            yield where, row
        return
    path = Path(source)
    require_file(path, wanted)
    if not row_suffix(path):
        raise BehaviorError(
            f"{path}: got a {path.suffix or 'nameless'} file; allowed: {ROW_FILES}, or {FORM}", code="unsupported_file"
        )
    for _, where, row in read_objects(path, wanted, row_form):
        yield where, row


def _renamed(source: MappedRows, rows: list[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield rows with our names for the columns that the user names."""
    present = list(dict.fromkeys(name for _, row in rows for name in row))
    columns: dict[str, str] = {}
    for left, right in source.columns.items():
        pair = next((one for one in ((left, right), (right, left)) if one[0] in TRAINED_COLUMNS and one[1] in present), None)
        if pair is None:
            named = right if left in TRAINED_COLUMNS else left
            raise BehaviorError(
                f"{source}: columns: got {left}={right}; allowed: OUR NAME=COLUMN, as in prompt=question; our names are {', '.join(TRAINED_COLUMNS)}; the "
                f"columns are {', '.join(present) or 'none'}{closest(named, present)}",
                code="unknown_column",
            )
        columns[pair[0]] = pair[1]
    for where, row in rows:
        kept = {name: value for name, value in row.items() if name not in (*columns, *columns.values())}
        yield where, kept | {ours: _as_cell(ours, row[theirs]) for ours, theirs in columns.items() if row.get(theirs) is not None}


def _as_cell(name: str, value: Any) -> Any:
    """Return what a cell of a table holds, which was read before its column had our name."""
    return read_cell(name, value) if isinstance(value, str) and value.strip() else value
