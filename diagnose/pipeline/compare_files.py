"""Compare two runs and write compare.json and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.diagnose.comparison.compare_behavior import ComparisonOptions
from posttrain.diagnose.comparison.compare_runs import check_margin, compare_runs
from posttrain.diagnose.comparison.transition import Transition
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.garbage_collection import collector_paused
from posttrain.diagnose.pipeline.comparison_file import comparison_file
from posttrain.diagnose.pipeline.count_runs import with_counts_as_runs
from posttrain.diagnose.pipeline.run_files import Run, read_run
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.storage.output_folder import content_of, locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.thresholds import Thresholds

DEFAULT_MARGIN = 0.05
"""Change of pass@1 that does not matter."""

WRITTEN = frozenset({"compare.json", "checkpoints.json", "report.html", "report.md", "figures"})
"""What a comparison consists of."""


@collector_paused()
def compare(
    before: Run,
    after: Run,
    *,
    out: str | Path,
    null: Run | None = None,
    margin: float = DEFAULT_MARGIN,
    trained: Sequence[str] = (),
    stage: str | None = None,
    command: str = "",
) -> Transition:
    """Compare two runs on the behaviors that both measured, and write compare.json and a report to `out`.

    Args:
        before: A run directory, a run, or a file of counts (`{"id", "c", "n"}`).
        after: The same, measured with the same behaviors and split.
        out: Folder for compare.json, report.html and report.md.
        null: A second run of the model before (another seed), as a run directory or a run, for support dynamics to be compared with; None
            compares them with the same successes dealt anew between the two sides.
        margin: The largest change of pass@1 that does not matter, for the test of equivalence.
        trained: Names of the behaviors that the stage in between was trained on.
        stage: Its name.
        command: What the page prints under "how to reproduce".

    Raises:
        RunError: The runs share no behavior, or measured it differently, or null repeats the samples of `before`; or `out` holds other files
            (`other_files`), or another process writes there (`folder_in_use`).
        SettingsError: The margin is out of range.
    """
    check_comparison_folder(Path(out))
    check_writable(Path(out))
    with with_counts_as_runs((before, after, null)) as (first, last, second):
        assert first is not None
        assert last is not None
        transition = compare_folders(first, last, null=second, margin=margin, trained=trained, stage=stage)
        run = transition.after.run
        command = command or f"posttrain compare {transition.before.path} {transition.after.path} --out {out}"
        entry = RunEntry(path=str(out), created=run.created, command=command, versions=run.versions)
        with locked_folder(Path(out)):
            check_comparison_folder(Path(out))
            write_comparison(Path(out), transition, entry, transition.after.settings)
            write_report(Path(out))
    return transition


def check_comparison_folder(out: Path) -> None:
    """Refuse a folder that holds anything but an earlier comparison."""
    if not out.exists():
        return
    others = [entry.name for entry in content_of(out) if entry.name not in WRITTEN] if out.is_dir() else [out.name]
    if others:
        raise RunError(
            f"--out {out}: holds {others[0]}, which is no part of a comparison; give a new or an empty folder, or that of an earlier comparison",
            code="other_files",
        )


def compare_folders(
    before: Run,
    after: Run,
    *,
    null: Run | None = None,
    margin: float = DEFAULT_MARGIN,
    trained: Sequence[str] = (),
    stage: str | None = None,
) -> Transition:
    """Compare two runs and write nothing; arguments and errors as in `compare`."""
    check_margin(margin)
    for run in (before, after, null):
        if run is not None and not isinstance(run, DiagnosedRun):
            RunDirectory(Path(run)).read_json()  # all of them before the samples of any are read
    first, last = read_run(before), read_run(after)
    options = ComparisonOptions(
        margin=margin,
        trained=frozenset(trained),
        stage=stage,
        thresholds=Thresholds.from_json(last.settings["thresholds"]).change,
    )
    return compare_runs(first, last, options, null=None if null is None else read_run(null))


def write_comparison(out: Path, transition: Transition, run: RunEntry, settings: Mapping[str, Any]) -> None:
    """Write compare.json.

    Args:
        out: Folder for it.
        transition: The comparison.
        run: Which command writes the file.
        settings: Settings that its page shows.
    """
    write_model(out / "compare.json", comparison_file(transition, run, settings))
