"""Decide again from the stored samples of a finished run, with other numbers that decide; no model is needed."""

from __future__ import annotations

import os
from pathlib import Path

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.run_files import write_run
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.files import write_json
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.run_record import DecisionRecord
from posttrain.diagnose.thresholds import Thresholds


def decide_again(
    run: str | os.PathLike[str],
    *,
    retention_weight: float | None = None,
    epsilon: float | None = None,
    primary_k: int | None = None,
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
        command: What the page prints under "how to reproduce".

    Raises:
        SettingsError: A number is out of range (`epsilon`, `primary_k`, `threshold_out_of_range`).
        RunError: The folder holds no finished diagnosis.
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
        write_json(directory.run_json, {**record, "decision": decision.model_dump(exclude_defaults=True)})
        write_run(decided)
    return decided
