"""loop.json, version 1: what a loop of diagnosis and training did, round by round, and why it ended.

Additions keep the version, as in diagnosis.json. The file of an earlier version holds stages and bottlenecks alone; its page has no table of rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal

from pydantic import Field

from posttrain.diagnose.storage.diagnosis_json import EstimateEntry
from posttrain.diagnose.storage.json_model import FileModel, Number
from posttrain.diagnose.types import Bottleneck, Purpose


class LoopEnd(StrEnum):
    """Why a loop ended."""

    MASTERED = "mastered"
    """Every target behavior is mastered."""
    NO_GAIN = "no_gain"
    """Two rounds in a row brought no gain."""
    BUDGET_SPENT = "budget_spent"
    """A further round would go beyond `budget_tokens`."""
    NOTHING_TO_TRAIN = "nothing_to_train"
    """No diagnosis names a stage that trains."""
    STAGES_EXHAUSTED = "stages_exhausted"
    """Every stage that is named and can run was tried without a gain."""
    ROUNDS_DONE = "rounds_done"
    """As many stages as were asked for were run."""


class RoundVerdict(StrEnum):
    """What a round came to."""

    HELPED = "helped"
    """A trained behavior rose: the interval of its paired difference lies above 0."""
    BROUGHT_NOTHING = "brought_nothing"
    """No trained behavior rose."""
    HARDLY_MOVED = "hardly_moved"
    """Nothing rose, and training left the model nearly as it was: the stage does not count as tried."""
    COST_MORE = "cost_more_than_it_gave"
    """A behavior fell, and the mean gain on targets is less than the mean loss on retention."""


class StageOrigin(StrEnum):
    """Where the stage of a round comes from."""

    NAMED = "named"
    """The diagnosis names it."""
    ALTERNATIVE = "alternative"
    """The named stage was tried without a gain, or cannot run; this is the next alternative that can."""
    CONSOLIDATION = "consolidation"
    """A behavior that was fine has fallen, and this stage brings it back from the checkpoint before the fall."""
    GIVEN = "given"
    """The user named it."""


class RoundAdviceEntry(FileModel):
    """What the diagnosis before a round says of one trained behavior."""

    behavior: str
    bottleneck: Bottleneck
    leans_to: Bottleneck | None = None
    """The most probable label where it is `inconclusive`; the confidence is then that of this label."""
    confidence: Number
    stage: str | None = None
    """The stage that it names."""
    predicted_gain: EstimateEntry | None = None
    """Of pass@1, where the advice has one."""


class RoundChangeEntry(FileModel):
    """pass@1 of one behavior over one round, paired by problem."""

    behavior: str
    purpose: Purpose
    trained: bool
    delta: EstimateEntry
    """From the checkpoint that the round started from to its own."""
    since_start: EstimateEntry
    """From the model that the loop started with."""


class RoundCostEntry(FileModel):
    """What a round took: its stage, and the diagnosis after it."""

    generated_tokens: int = 0
    trained_tokens: int = 0
    seconds: Number = math.nan


class RoundRetentionEntry(FileModel):
    """What the stage of a round mixed in of behaviors that are not to be lost."""

    behaviors: Sequence[str] = ()
    share: Number = 0.0
    """Of the rows of every batch, for all of them together."""
    rows: int = 0
    tokens: int = 0


class LoopRoundEntry(FileModel):
    """One round. Fields that an earlier version did not write have defaults."""

    number: int = 0
    """1 is the first."""
    stage: str
    trained: Sequence[str]
    """Names of the behaviors it was trained on."""
    started_from: int = 0
    """The round whose checkpoint it started from; 0 is the model that the loop started with."""
    checkpoint: str
    fingerprint: str = ""
    reason: StageOrigin = StageOrigin.NAMED
    instead_of: Sequence[str] = ()
    """Stages that the diagnosis names first and that were passed over."""
    earlier: str | None = None
    """The checkpoint before the fall, where the round consolidates."""
    advice: Sequence[RoundAdviceEntry] = ()
    changes: Sequence[RoundChangeEntry] = ()
    cost: RoundCostEntry = RoundCostEntry()
    retention: RoundRetentionEntry = RoundRetentionEntry()
    moved: bool = True
    """Whether training moved the model."""
    learning_rate: Number | None = None
    """Peak of its training."""
    verdict: RoundVerdict | None = None
    utility: EstimateEntry | None = None
    """Mean gain of the targets less mean loss of retention since the start, in pass@1."""


class RoundRateEntry(EstimateEntry):
    """pass@1 of a behavior after a round."""

    round: int


class LoopBehaviorEntry(FileModel):
    """One behavior over the rounds."""

    name: str
    purpose: Purpose
    pass_at_1: Sequence[RoundRateEntry] = ()
    """Before the first round (0), and after each."""


class KeepEntry(FileModel):
    """The checkpoint to keep: the one with the highest utility."""

    round: int
    """0: the model that the loop started with."""
    checkpoint: str


class LabelChangeEntry(FileModel):
    """Bottleneck of a behavior at the start and at the end."""

    before: Bottleneck
    after: Bottleneck


class LoopFile(FileModel):
    """The whole file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    ended: LoopEnd | None = None
    """Null in a file of an earlier version."""
    words: str = ""
    """Why it ended, in one sentence."""
    keep: KeepEntry | None = None
    budget_tokens: int | None = None
    cost: RoundCostEntry = RoundCostEntry()
    """Of the whole loop: the first diagnosis and all rounds. The final split is not counted."""
    rounds: Sequence[LoopRoundEntry] = ()
    behaviors: Sequence[LoopBehaviorEntry] = ()
    bottlenecks: Mapping[str, LabelChangeEntry] = Field(default_factory=dict)
