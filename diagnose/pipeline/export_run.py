"""Export a run: the Python call behind `posttrain export` for data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from posttrain.diagnose.exporting.export_rows import ExportOptions
from posttrain.diagnose.exporting.write_export import check_export, write_rows
from posttrain.diagnose.pipeline.run_files import Run, read_run
from posttrain.diagnose.types import Split


class ExportArguments(TypedDict, total=False):
    """Optional arguments of an export; `ExportOptions` says what they mean."""

    behaviors: Sequence[str]
    split: Split
    least_rate: float | None
    most_rate: float | None
    per_problem: int


def export(run: Run, format_name: str, out: str | Path, **options: Unpack[ExportArguments]) -> int:
    """Write the problems, samples or counts of a run to a file that another tool reads.

    Args:
        run: A run directory, or a run.
        format_name: One of `exporting.export_formats.EXPORTS`, such as `trl-sft`, `verl`, `counts`.
        out: The file, which must not exist; its ending says JSON lines or parquet.
        options: `behaviors`, `split`, `least_rate`, `most_rate`, `per_problem`.

    Returns:
        The number of rows.

    Raises:
        UserError: The format or an option is wrong, or the run has nothing of the kind; measured problems go into a training file only where `split`
            says so.
    """
    found = check_export(format_name, Path(out))
    return write_rows(Path(out), found.rows(read_run(run), ExportOptions(**options)))
