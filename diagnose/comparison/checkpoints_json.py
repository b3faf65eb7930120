"""checkpoints.json, version 1: three or more runs on the same problems, such as the checkpoints of one training run, and which one to keep.

Additions keep the version, as in diagnosis.json. Lists over checkpoints are in the order in which the runs were given; the first is what
changes are taken against. Words for people stand in `label` and `words`, never in keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from posttrain.diagnose.storage.diagnosis_json import EstimateEntry, PassAtKEntry, RunEntry
from posttrain.diagnose.storage.json_model import FileModel, Number
from posttrain.diagnose.types import ProblemChange, Purpose, Split


class RetentionState(StrEnum):
    """Whether a checkpoint kept what retention behaviors measure, against the first one."""

    KEPT = "kept"
    """The drop of pass@1 is shown to be no larger than the margin."""
    LOST = "lost"
    """pass@1 is shown to be lower, and not shown to be within the margin."""
    OPEN = "open"
    """Neither is shown."""
    NOT_MEASURED = "not_measured"
    """The runs have no retention behavior."""


class Direction(StrEnum):
    """How the success rate of a problem moved, where an exact test tells."""

    ROSE = "rose"
    FELL = "fell"


class KeepNote(StrEnum):
    """Limitation of the choice of a checkpoint."""

    RETENTION_OPEN = "retention_open"
    """That the chosen one kept the retention behaviors is not shown."""
    RETENTION_NOT_MEASURED = "retention_not_measured"
    NO_TARGET = "no_target"
    """No behavior is a target: the choice is by all behaviors."""
    SEVERAL_MAY_BE_BEST = "several_may_be_best"
    FIRST_MAY_BE_BEST = "first_may_be_best"
    """No checkpoint is shown to be better than the first."""
    EVERY_LATER_ONE_LOST = "every_later_one_lost"
    """Every checkpoint after the first is shown to have lost a retention behavior."""
    ADAPTIVE_SAMPLING = "adaptive_sampling"
    """Sample counts depend on outcomes: rates are posterior means, and bands are widened for each number by itself."""
    MISSING_SAMPLES = "missing_samples"
    """Samples have no outcome: bands and the confidence set hold whatever it is."""


class CheckpointEntry(FileModel):
    """One of the runs."""

    label: str
    step: int | None = None
    """Of training, where the run or its folder tells."""
    run: str
    model: dict[str, Any] = Field(default_factory=dict)


class CheckpointPointEntry(FileModel):
    """One behavior at one checkpoint."""

    pass_at_k: Sequence[PassAtKEntry] = ()
    """All intervals of the behavior, over checkpoints and k, hold at once with 95 %."""
    change: Sequence[PassAtKEntry] = ()
    """Paired difference against the first checkpoint, at the same k; likewise. Empty for the first."""
    states: dict[ProblemChange, int] = Field(default_factory=dict)
    """Number of problems by what became of them since the first checkpoint, with false discoveries divided over checkpoints."""
    num_risen: int | None = None
    """Problems whose success rate rose, by exact tests at the same rate of false discoveries; null after adaptive sampling."""
    num_fallen: int | None = None
    retention: RetentionState | None = None
    """Of a retention behavior, against the first, by the change of pass@1 at all checkpoints at once (two one-sided tests at 5 %)."""
    tokens: EstimateEntry | None = None
    """Generated tokens per sample."""
    truncated: EstimateEntry | None = None
    """Share of samples that ran into the token limit."""


class CheckpointProblemEntry(FileModel):
    """One problem at all checkpoints."""

    id: str
    group: str | None = None
    num_samples: Sequence[int]
    """With a known outcome."""
    num_correct: Sequence[int]
    num_missing: Sequence[int]
    states: Sequence[ProblemChange | None]
    """Since the first checkpoint; null for it."""
    directions: Sequence[Direction | None] = ()
    """Since the first checkpoint; null for it, where none is shown, and after adaptive sampling."""


class CheckpointBehaviorEntry(FileModel):
    """One behavior along the checkpoints."""

    name: str
    purpose: Purpose = Purpose.TARGET
    measure: dict[str, Any] = Field(default_factory=dict)
    num_problems: int
    """Measured at every checkpoint."""
    shown_k: int
    """The k that tables and figures show beside pass@1: the primary one, or the largest that the samples allow."""
    points: Sequence[CheckpointPointEntry]
    problems: Sequence[CheckpointProblemEntry] = ()


class KeepCheckpointEntry(FileModel):
    """Which checkpoint to keep: the best on the targets of those that are not shown to have lost a retention behavior."""

    index: int
    label: str
    score: EstimateEntry
    """Mean pass@1 of the targets, drawn towards the others that may be the best: the observed one is too high, because it was chosen for it."""
    observed: Number
    """Mean pass@1 of the targets as measured."""
    candidates: Sequence[int]
    """Indexes of the checkpoints that are not shown to have lost a retention behavior."""
    may_be_best: Sequence[int]
    """Those of them that are not shown to be worse than another: a 95 % confidence set for the best one."""
    retention: RetentionState
    words: str = ""
    note_codes: Sequence[KeepNote] = ()
    notes: Sequence[str] = ()


class CheckpointsFile(FileModel):
    """The whole file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: RunEntry = RunEntry()
    split: Split = Split.EVAL
    settings: dict[str, Any] = Field(default_factory=dict)
    margin: Number
    """The largest drop of pass@1 that does not matter, for retention behaviors."""
    checkpoints: Sequence[CheckpointEntry]
    behaviors: Sequence[CheckpointBehaviorEntry]
    keep: KeepCheckpointEntry

    def __getitem__(self, name: str) -> CheckpointBehaviorEntry:
        """Return the behavior of that name."""
        return {behavior.name: behavior for behavior in self.behaviors}[name]
