"""Write what a finished run says: diagnosis.json, the report and the mark that it is done."""

from __future__ import annotations

import os
from pathlib import Path

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.garbage_collection import collector_paused
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.diagnosis_file import diagnosis_file
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.files import write_content
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory

Run = str | os.PathLike[str] | DiagnosedRun
"""A run directory, or the run read back."""


def read_run(run: Run) -> DiagnosedRun:
    """Return a run, read back where its folder is given.

    Raises:
        RunError: The folder holds no finished run, or a damaged one.
    """
    return run if isinstance(run, DiagnosedRun) else assemble(os.fspath(run))


def write_run(run: DiagnosedRun) -> None:
    """Write diagnosis.json and the report of a run, and mark it as done."""
    directory = RunDirectory(run.path)
    file = diagnosis_file(run)
    content = file.to_json()
    write_content(directory.diagnosis_json, content)
    write_report(run.path, file, content)
    directory.finish()


def write_first_report(run: DiagnosedRun) -> Path:
    """Write the report of a run that is not finished, and return the page to open; diagnosis.json follows at the end."""
    return write_report(run.path, diagnosis_file(run))[0]


@collector_paused()
def rewrite_report(folder: str | Path) -> Path:
    """Write the report of a folder again; no model is needed.

    A run that still has its samples is decided again first. A folder that holds diagnosis.json or compare.json alone is rendered as it is.

    Args:
        folder: The folder of a `posttrain diagnose`, `compare` or `loop`, or one that holds its JSON.

    Returns:
        The page to open.

    Raises:
        RunError: There is nothing to report.
    """
    path = Path(folder)
    if not path.is_dir():
        raise RunError(
            f"report {path}: no such folder; give that of a `posttrain diagnose`, `compare` or `loop`, which holds diagnosis.json or compare.json",
            code="nothing_to_report",
        )
    with locked_folder(path, named=f"report {path}"):
        return _rewrite(path)


def _rewrite(path: Path) -> Path:
    if (path / "run.json").exists() and any((path / kind).is_dir() for kind in ("rollouts", "done")):
        write_run(assemble(path))
        return path / "report.html"
    return write_report(path)[0]
