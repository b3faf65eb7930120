"""Where rows to train on come from: a file, or a data set as `hf:NAME[:CONFIG][:SPLIT]`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.hub_data import FORM, is_hub_data, open_hub_data, parse_hub_data, read_hub_rows
from posttrain.diagnose.behaviors.row_files import ROW_FILES, read_objects, require_file, row_suffix
from posttrain.diagnose.errors import BehaviorError

_DEFAULT_SPLIT = "train"
"""The split to learn from where none is named; another one is never taken in its place."""


def check_row_source(source: str | Path, option: str = "--data") -> None:
    """Refuse rows that are not there, before they are read.

    Args:
        source: A file, or `hf:NAME[:CONFIG][:SPLIT]`. A data set that is not in the cache is downloaded.
        option: What names them on the command line.

    Raises:
        BehaviorError: There is no such file (`no_such_file`), or no such data set or split (see `read_hub_rows`).
    """
    if is_hub_data(source):
        open_hub_data(parse_hub_data(str(source), Path()), default_split=_DEFAULT_SPLIT)
    else:
        require_file(Path(source), f"a {ROW_FILES} file of rows, or {FORM}, as {option}")


def row_source_name(source: str | Path) -> str:
    """Return a short name: that of the file, or of the data set with its configuration and split."""
    return parse_hub_data(str(source), Path()).behavior_name if is_hub_data(source) else Path(source).name


def fingerprint_row_source(source: str | Path) -> str:
    """Return the SHA-256 of a file's content, or of the rows of a data set, in hexadecimal digits."""
    if not is_hub_data(source):
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    found = hashlib.sha256()
    for _, row in read_row_source(source, wanted="", row_form=""):
        found.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return found.hexdigest()


def read_row_source(source: str | Path, wanted: str, row_form: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read rows: where each stands, and its content.

    Args:
        source: A file, or `hf:NAME[:CONFIG][:SPLIT]`, of which the split `train` is read where none is named.
        wanted: The file that should have been given, for error messages.
        row_form: What a row looks like, for error messages.

    Raises:
        BehaviorError: They cannot be read; a file of another kind has the code `unsupported_file`.
    """
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
