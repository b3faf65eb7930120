"""A finished run read back from disk: what was measured and decided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from posttrain.diagnose.storage.diagnosis_json import RunEntry, SamplingEntry
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import (
    Behavior,
    Diagnosis,
    PathLikelihoodMeasurement,
    PathScore,
    ProbeResult,
    Problem,
    Rollout,
    SamplingMeasurement,
    TurnLimit,
    ValidityMeasurement,
)


@dataclass(frozen=True, kw_only=True)
class DiagnosedBehavior:
    """One behavior of a finished run: what was decided, and all that it rests on."""

    behavior: Behavior
    problems: tuple[Problem, ...]
    """Those of the split that was measured."""
    diagnosis: Diagnosis
    sampling: SamplingMeasurement
    plan: SamplingEntry
    """How the samples were planned."""
    validity: ValidityMeasurement
    likelihood: PathLikelihoodMeasurement | None
    """None where no reference was scored."""
    answers: tuple[ProbeResult, ...]
    """What became of the further probes, skipped ones included."""
    table: RolloutTable
    """The rollouts as columns, for counting."""
    paths: tuple[PathScore, ...]
    turn_limits: tuple[TurnLimit, ...] = ()
    """What turns are worth; empty where no sample took more than one."""

    @cached_property
    def rollouts(self) -> tuple[Rollout, ...]:
        """Read the rollouts themselves, in the order of the table."""
        return tuple(self.table.all_rows())


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosedRun:
    """A finished run."""

    path: Path
    run: RunEntry
    model: dict[str, Any]
    settings: dict[str, Any]
    behaviors: tuple[DiagnosedBehavior, ...]

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """Return the diagnosis of each behavior."""
        return tuple(measured.diagnosis for measured in self.behaviors)

    @property
    def report_html(self) -> Path:
        """Return the page to open."""
        return self.path / "report.html"

    def __fspath__(self) -> str:
        """Return the run directory, so that a run can be given wherever its folder can."""
        return str(self.path)

    def __getitem__(self, name: str) -> DiagnosedBehavior:
        """Return the behavior of that name."""
        return {measured.behavior.name: measured for measured in self.behaviors}[name]
