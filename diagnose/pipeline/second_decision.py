"""Decide again from the stored samples of a finished run, with other numbers that decide or an earlier run beside it; no model is needed."""

from __future__ import annotations

import os
from pathlib import Path

from posttrain.diagnose.comparison.comparable_runs import check_comparable
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.importing.source_facts import SourceFacts
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.run_files import write_run
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.probes.drift.stored_runs import compare_stored_runs
from posttrain.diagnose.probes.runner import write_decided_again
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.files import write_json
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.run_record import DecisionRecord
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, ProbeResult, Split


def decide_again(
    run: str | os.PathLike[str],
    *,
    retention_weight: float | None = None,
    epsilon: float | None = None,
    primary_k: int | None = None,
    before: str | os.PathLike[str] | None = None,
    command: str = "",
) -> DiagnosedRun:
    """Decide a finished run again, imported or sampled, and write its diagnosis.json and report.

    What is not given is as the run was measured. Samples and settings of the run stay as they are; run.json keeps, under `decision`, what was given,
    so that `report` and `compare` decide alike.

    Args:
        run: The run directory.
        retention_weight: What a fall of the retention behaviors counts against a gain of the same size on the target.
        epsilon: Success rate under which a behavior is out of support.
        primary_k: The k of the primary pass@k.
        before: An earlier run on the same behaviors, imported or sampled: what was solved then counts as evidence, as the drift probe has it. What that
            probe measures with models, likelihoods and KL, stays unknown.
        command: What the page prints under "how to reproduce".

    Raises:
        SettingsError: A number is out of range (`epsilon`, `primary_k`, `threshold_out_of_range`), or the earlier run is this one (`before_is_out`)
            or lacks a behavior (`before_without_behavior`).
        RunError: A folder holds no finished diagnosis, or the two runs cannot be compared (codes of `check_comparable`).
    """
    if primary_k is not None and primary_k < 1:
        raise SettingsError(f"--primary-k: got {primary_k}; allowed: a whole number from 1 on", code="primary_k")
    directory = RunDirectory(Path(run))
    record = directory.read_json()
    mastered = Thresholds.from_json(record["settings"].get("thresholds", {})).mastered
    if epsilon is not None and not 0.0 < epsilon < mastered:
        raise SettingsError(
            f"--epsilon: got {epsilon:g}; allowed: a success rate above 0 and below {mastered:g}, from which a problem counts as mastered, such as 0.006",
            code="epsilon",
        )
    decision = DecisionRecord(retention_weight=retention_weight, epsilon=epsilon, primary_k=primary_k, command=command)
    with locked_folder(directory.path, named=f"--from {directory.path}"):
        decided = assemble(directory.path, decision=decision)
        if before is not None:
            for behavior, answer in _compare_with(decided, Path(before)):
                write_decided_again(directory, behavior, answer)
            decision = decision.model_copy(update={"before": str(before)})
            decided = assemble(directory.path, behaviors=[one.behavior for one in decided.behaviors], decision=decision)
        write_json(directory.run_json, {**record, "decision": decision.model_dump(exclude_defaults=True)})
        write_run(decided)
    return decided


def _compare_with(now: DiagnosedRun, path: Path) -> list[tuple[Behavior, ProbeResult]]:
    """Return what the samples of an earlier run show of each behavior.

    Raises:
        SettingsError: Codes `before_is_out`, `before_without_behavior`.
        RunError: There is no finished run, or it cannot be compared with this one.
    """
    if os.path.realpath(path) == os.path.realpath(now.path):
        raise SettingsError(f"--before {path}: is the run of --from; give an earlier run", code="before_is_out")
    earlier = assemble(path)
    names = [one.behavior.name for one in earlier.behaviors]
    for one in now.behaviors:
        if one.behavior.name not in names:
            raise SettingsError(
                f"--before {path}: it measured {', '.join(names)}, not {one.behavior.name}; give a run on the same behaviors, or import both under one "
                "name with --behavior NAME",
                code="before_without_behavior",
            )
    try:
        check_comparable(earlier, now)
    except RunError as error:
        raise RunError(f"--before {path}: {str(error).removeprefix('compare: ')}", code=error.code) from error
    return [(one.behavior, _compare(now, one, earlier)) for one in now.behaviors]


def _compare(now: DiagnosedRun, one: DiagnosedBehavior, earlier: DiagnosedRun) -> ProbeResult:
    behavior, then, seed = one.behavior, earlier[one.behavior.name], now.settings["seed"]
    thresholds = Thresholds.from_json(now.settings["thresholds"])
    measured = MeasuredBehavior(
        behavior=behavior,
        split=Split(now.settings["split"]),
        counts=one.sampling,
        posterior=posterior_of(one.sampling, epsilon=behavior.measure.epsilon, thresholds=thresholds, seed=seed),
        rollouts=one.table,
        paths=one.likelihood,
    )
    return compare_stored_runs(
        measured,
        thresholds,
        then.table,
        independent=all(_is_independent(run, run[behavior.name]) for run in (now, earlier)),
        plain=all(side.behavior.sampling.samples_the_policy for side in (one, then)),
    )


def _is_independent(run: DiagnosedRun, one: DiagnosedBehavior) -> bool:
    source = SourceFacts.of_run(run.settings, one.behavior.name)
    return not one.behavior.sampling.greedy and (source is None or source.independent)
