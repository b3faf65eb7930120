"""Files that a reader is given: those of a folder, and what a behavior is called that is named after one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ReadOptions


def files_in(paths: Sequence[Path], suffixes: Sequence[str], wanted: str) -> list[Path]:
    """Return files as they are, and those of folders that end with one of some suffixes.

    Args:
        paths: Files and folders.
        suffixes: Of the files that are taken from folders, folders in them included.
        wanted: What should have been given, for messages.

    Raises:
        SourceError: A path does not exist (`no_such_file`), a folder holds no such file (`no_files`), or none is given (`no_files`).
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file() and one.name.lower().endswith(tuple(suffixes)))
            if not inside:
                raise SourceError(f"{path}: holds no {', '.join(suffixes)} file; give {wanted}", code="no_files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise SourceError(f"{path}: no such file or folder; give {wanted}", code="no_such_file")
    if not found:
        raise SourceError(f"got no file; give {wanted}", code="no_files")
    return found


def behavior_of_file(path: Path) -> str:
    """Return the name of a behavior that is called after its file: `gsm8k` for `runs/gsm8k.jsonl.gz`."""
    stem = re.sub(r"(\.(jsonl|ndjson|json|csv|parquet|gz|zip))+$", "", path.name, flags=re.IGNORECASE)
    return stem or path.name


def refuse_options(format_name: str, options: ReadOptions, *unused: str) -> None:
    """Refuse options that a format has no use for.

    Args:
        format_name: Of the format.
        options: What the user says.
        unused: Fields of the options that the format does not read.

    Raises:
        SourceError: One is given (`unused_option`).
    """
    for name in unused:
        if getattr(options, name):
            raise SourceError(f"--{name}: the format {format_name} has no use for it; leave it out", code="unused_option")
