"""Read samples of another tool and make a run of them: the Python calls behind `posttrain import`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.garbage_collection import collector_paused
from posttrain.diagnose.importing.detect_format import AUTO, detect_format, looks_like, refuse_other_format
from posttrain.diagnose.importing.formats import FORMATS
from posttrain.diagnose.importing.formats.table import collect, read_rows
from posttrain.diagnose.importing.imported import ImportedSamples, ReadOptions
from posttrain.diagnose.pipeline.import_run import ImportSettings, import_run
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.strict_settings import unknown
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Sampling, Split

if TYPE_CHECKING:
    import pandas as pd

Path_ = str | os.PathLike[str]
_OF_ANOTHER = frozenset(
    {"not_this_format", "no_source_files", "unreadable_file", "no_samples", "invalid_json", "invalid_counts", "no_counts"}
)
"""Codes of errors that files of another format meet."""


class ImportOptions(TypedDict, total=False):
    """Optional arguments of an import; `ImportSettings` says what they mean."""

    success: float | None
    split: Split
    step: str | None
    sampling: Sampling | None
    thresholds: Thresholds
    command: str


def import_samples(
    format_name: str,
    paths: Path_ | Sequence[Path_],
    *,
    out: Path_,
    read: ReadOptions | None = None,
    reporter: Reporter | None = None,
    **options: Unpack[ImportOptions],
) -> DiagnosedRun:
    """Read samples of another tool, and make a finished run of them.

    Args:
        format_name: Such as `table`, `lm-eval`, or `auto`; `posttrain import --help` lists them.
        paths: A file or a folder, or several.
        out: The run directory.
        read: What is said about the source: `columns`, `score`, `behavior`, ...
        reporter: Where progress goes.
        options: `success`, `split`, `step`, `sampling`, `thresholds`, `command`.

    Returns:
        The run, with its diagnoses; `compare`, `gate`, `plot` and `rewrite_report` take it.

    Raises:
        UserError: The format is unknown, the files cannot be read or do not say what is asked, or the folder holds something else.
    """
    several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    settings = ImportSettings(out=Path(out), paths=several, **options)
    return import_run(read_samples(format_name, paths, read, reporter), settings, reporter)


def read_samples(
    format_name: str, paths: Path_ | Sequence[Path_], options: ReadOptions | None = None, reporter: Reporter | None = None
) -> ImportedSamples:
    """Read samples of another tool; arguments and errors as for `import_samples`."""
    if format_name not in (AUTO, *FORMATS):
        raise SourceError(unknown("format", format_name, (AUTO, *FORMATS)), code="unknown_format")
    several = [Path(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    reporter = reporter or Reporter(quiet=True)
    if format_name == AUTO:
        format_name = detect_format(several)
        reporter.say(f"read as {format_name}: {FORMATS[format_name].title}")
    with (
        collector_paused(),
        reporter.task(f"reading {', '.join(str(path) for path in several[:3])}{', ...' if len(several) > 3 else ''}", None),
    ):
        try:
            refuse_other_format(several, format_name)
            found = FORMATS[format_name].read(several, options or ReadOptions())
        except SourceError as error:
            if error.code in _OF_ANOTHER and "posttrain import" not in str(error) and (hint := looks_like(several, format_name)):
                raise SourceError(f"{error}{hint}", code=error.code) from None
            raise
    for note in found.source.notes:
        reporter.say(note.text)
    return found


def from_frame(
    frame: pd.DataFrame,
    *,
    out: Path_,
    behavior: str = "samples",
    columns: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    options: ImportOptions | None = None,
    **named: str,
) -> DiagnosedRun:
    """Make a finished run of a pandas table with one row per sample.

        posttrain.diagnose.from_frame(frame, problem="qid", correct="is_right", out="runs/mine")

    Args:
        frame: The samples; its index is a column where it has a name that no column has.
        out: The run directory.
        behavior: How the behavior is called, where no column says it.
        columns: Our name → column, as in `named`.
        reporter: Where progress goes.
        options: Of the import, as for `import_samples`.
        named: `problem`, `correct`, and where there are such columns `text`, `prompt`, `answer`, `group`, ...: names of columns. Usual ones are found.

    Raises:
        UserError: As for `import_samples`.
    """
    levels = [i for i, name in enumerate(frame.index.names) if name is not None and name not in frame.columns]
    table = frame.reset_index(level=levels) if levels else frame
    given = ReadOptions(columns={**(columns or {}), **named})
    known = table.astype(object).where(table.notna(), None)
    names = [str(name) for name in table.columns]
    rows = [
        (f"row {i}", dict(zip(names, map(_plain, row), strict=True)))
        for i, row in enumerate(known.itertuples(index=False, name=None))
    ]
    found = collect([read_rows(rows, "the frame", behavior, given)], given)
    return import_run(found, ImportSettings(out=Path(out), **(options or {})), reporter)


def _plain(value: Any) -> Any:
    """Return a numpy value as Python has it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value
