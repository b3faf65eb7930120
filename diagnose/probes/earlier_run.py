"""The samples of an earlier run on the same behavior (`--before`)."""

from __future__ import annotations

from pathlib import Path

from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.storage.run_check import checked_table
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior


def earlier_rollouts(path: Path, behavior: Behavior) -> RolloutTable:
    """Return the samples of a behavior in an earlier run.

    Args:
        path: The run directory.
        behavior: As it is measured now.

    Raises:
        SettingsError: The run is not finished (`before_unreadable`), did not measure the behavior (`before_without_behavior`), or measured another
            one of that name (`before_other_behavior`).
        RunError: There is no run (`no_run`), run.json cannot be read (`unreadable_run`), or its samples are damaged.
    """
    directory = RunDirectory(path)
    fingerprints = directory.read_json()["settings"].get("behaviors", {})
    try:
        names = [entry.name for entry in read_model(directory.diagnosis_json, DiagnosisFile).behaviors]
    except RunError as error:
        raise SettingsError(
            f"--before {path}: its diagnosis.json cannot be read ({error}); give a finished run", code="before_unreadable"
        ) from error
    if behavior.name not in names:
        raise SettingsError(
            f"--before {path}: it measured {', '.join(names)}, not {behavior.name}; give a run on the same behaviors",
            code="before_without_behavior",
        )
    if fingerprints.get(behavior.name) != behavior.fingerprint:
        raise SettingsError(
            f"--before {path}: it measured another {behavior.name} (problems, prompt or settings differ); give a run on the same behavior file",
            code="before_other_behavior",
        )
    return checked_table(directory, behavior.name)
