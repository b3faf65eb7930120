"""Compare the checkpoints of a training run and write checkpoints.json and its report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from posttrain.analysis.plots.run_reader import distinct_names
from posttrain.diagnose.comparison.checkpoint_counts import CheckpointCounts
from posttrain.diagnose.comparison.checkpoints_json import CheckpointEntry, CheckpointsFile
from posttrain.diagnose.comparison.choose_checkpoint import choose_checkpoint
from posttrain.diagnose.comparison.compare_checkpoints import check_all_comparable, compare_behavior_along
from posttrain.diagnose.comparison.compare_runs import check_margin
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.importing.source_rows import behavior_of_file
from posttrain.diagnose.pipeline.compare_files import DEFAULT_MARGIN, check_comparison_folder
from posttrain.diagnose.pipeline.count_runs import with_counts_as_runs
from posttrain.diagnose.pipeline.run_files import Run, read_run
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Split

LEAST = 3
"""Runs; two are compared by `compare`."""
_STEP = re.compile(r"(?:^|[-_.])(?:checkpoint|ckpt|global_step|step|steps|iter|iteration)[-_]?(\d{1,15})$", re.IGNORECASE)


def compare_checkpoints(
    runs: Sequence[Run],
    *,
    out: str | Path,
    labels: Sequence[str] = (),
    margin: float = DEFAULT_MARGIN,
    command: str = "",
) -> CheckpointsFile:
    """Compare three or more runs with the first, say which checkpoint to keep, and write checkpoints.json and a report to `out`.

    Args:
        runs: Run directories, runs or files of counts, of the same behaviors and split, in the order of training.
        out: Folder for checkpoints.json, report.html and report.md.
        labels: What to call them, one each; without any, their steps where all are known, else their folders.
        margin: The largest drop of pass@1 on a retention behavior that does not matter.
        command: What the page prints under "how to reproduce".

    Raises:
        RunError: The runs share no behavior, measured it differently, or two of them hold the same samples; or `out` holds other files
            (`other_files`).
        SettingsError: Fewer than three runs (`number_of_runs`), labels that are not one each (`number_of_labels`) or not distinct (`name_twice`),
            or a margin out of range.
    """
    check_margin(margin)
    if len(runs) < LEAST:
        raise SettingsError(
            f"compare: got {len(runs)} runs; give {LEAST} or more, in the order of training, or two to compare before with after",
            code="number_of_runs",
        )
    _check_labels(labels, len(runs))
    check_comparison_folder(Path(out))
    check_writable(Path(out))
    with with_counts_as_runs(runs) as found:
        for run in found:
            if run is not None and not isinstance(run, DiagnosedRun):
                RunDirectory(Path(run)).read_json()  # all of them before the samples of any are read
        read = [read_run(run) for run in found if run is not None]
        last, paths = read[-1].run, " ".join(str(run.path) for run in read)
        entry = RunEntry(
            path=str(out),
            created=last.created,
            command=command or f"posttrain compare {paths} --out {out}",
            versions=last.versions,
        )
        file = checkpoints_file(read, entry, labels=labels, margin=margin)
    with locked_folder(Path(out)):
        check_comparison_folder(Path(out))
        write_model(Path(out) / "checkpoints.json", file)
        write_report(Path(out))
    return file


def checkpoints_file(
    runs: Sequence[DiagnosedRun], entry: RunEntry, *, labels: Sequence[str] = (), margin: float = DEFAULT_MARGIN
) -> CheckpointsFile:
    """Return what checkpoints.json holds; arguments and errors as in `compare_checkpoints`.

    Args:
        runs: The runs.
        entry: Which command writes the file.
        labels: What to call the runs.
        margin: The largest drop that does not matter.
    """
    names = check_all_comparable(runs)
    counts = {name: CheckpointCounts.of([run[name] for run in runs]) for name in names}
    thresholds = Thresholds.from_json(runs[-1].settings["thresholds"]).change
    behaviors = [
        compare_behavior_along([run[name] for run in runs], counts[name], margin=margin, thresholds=thresholds) for name in names
    ]
    steps = [step_of(run) for run in runs]
    called = list(labels) or _default_labels(runs, steps)
    return CheckpointsFile(
        run=entry,
        split=Split(runs[0].settings["split"]),
        settings=dict(runs[-1].settings),
        margin=margin,
        checkpoints=[
            CheckpointEntry(label=label, step=step, run=str(run.path), model=run.model)
            for label, step, run in zip(called, steps, runs, strict=True)
        ],
        behaviors=behaviors,
        keep=choose_checkpoint(behaviors, counts, called),
    )


def step_of(run: DiagnosedRun) -> int | None:
    """Return the step of training that a run measured: as recorded with its model or its import, else from a name such as `checkpoint-500`; None else."""
    recorded = run.model.get("step")
    if isinstance(recorded, int) and not isinstance(recorded, bool):
        return recorded
    policy = str((run.settings.get("source") or {}).get("policy", ""))
    if re.fullmatch(r"[0-9]{1,15}", policy):
        return int(policy)
    for name in (policy, Path(str(run.model.get("source", ""))).name, behavior_of_file(run.path.resolve())):
        if found := _STEP.search(name):
            return int(found[1])
    return None


def _default_labels(runs: Sequence[DiagnosedRun], steps: Sequence[int | None]) -> list[str]:
    if None not in steps and len(set(steps)) == len(steps):
        return [f"step {step}" for step in steps]
    return distinct_names([run.path for run in runs])


def _check_labels(labels: Sequence[str], num_runs: int) -> None:
    """Refuse labels that are not one for each run."""
    if labels and len(labels) != num_runs:
        raise SettingsError(
            f"--label: got {len(labels)} labels for {num_runs} runs; give one each, in their order", code="number_of_labels"
        )
    if twice := next((one for place, one in enumerate(labels) if one in labels[:place]), None):
        raise SettingsError(f"--label: got {twice!r} twice; give each name once", code="name_twice")
    if any(not one.strip() for one in labels):
        raise SettingsError("--label: got an empty name; give each run one that can be read", code="empty_label")
