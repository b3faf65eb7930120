"""regrade.json, version 1: whose grade changed when stored texts were graded again."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from posttrain.diagnose.storage.diagnosis_json import EstimateEntry, VerifierEntry
from posttrain.diagnose.storage.json_model import FileModel, Number, Text
from posttrain.diagnose.types import Bottleneck, GradeStatus


class GradeOutcome(StrEnum):
    """What a grade comes to."""

    RIGHT = "right"
    WRONG = "wrong"
    """Read and not right, or truncated."""
    UNREAD = "unread"
    """No answer could be read: a failure."""
    MISSING = "missing"
    """The verifier or the engine failed: nothing is known."""


class GradeEntry(FileModel):
    """One grade."""

    outcome: GradeOutcome
    status: GradeStatus
    score: Number | None = None
    extracted: Text | None = None
    """The answer that was read out of the text."""
    detail: Text = ""


class ChangedSampleEntry(FileModel):
    """A sample whose grade has another outcome now."""

    problem_id: str
    sample_index: int
    greedy: bool
    prompt: Text
    answer: Text
    """The expected answer."""
    text: Text
    before: GradeEntry
    after: GradeEntry


class RegradedProblemEntry(FileModel):
    """A problem with a changed sample; greedy ones are not counted."""

    id: str
    num_samples_before: int
    num_correct_before: int
    num_samples_after: int
    num_correct_after: int


class ShortVerdictEntry(FileModel):
    """A verdict in short."""

    bottleneck: Bottleneck
    confidence: Number
    sentence: str
    pass_at_1: EstimateEntry


class RegradedBehaviorEntry(FileModel):
    """What became of the grades of one behavior."""

    name: str
    regraded: bool
    """Whether it was graded again; else its grades were taken over."""
    verifier_before: VerifierEntry | None = None
    verifier_after: VerifierEntry | None = None
    num_samples: int
    """Greedy ones counted in."""
    changes: dict[str, int] = Field(default_factory=dict)
    """`OUTCOME_to_OUTCOME` → samples, unchanged ones included."""
    num_changed: int = 0
    problems: Sequence[RegradedProblemEntry] = ()
    """Those with a changed sample, largest change first."""
    examples: Sequence[ChangedSampleEntry] = ()
    """Some of the changed samples, of each kind of change in turn."""
    pass_at_1_delta: EstimateEntry
    """Paired by problem."""
    before: ShortVerdictEntry
    after: ShortVerdictEntry


class RegradeFile(FileModel):
    """The whole file."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    run: str
    """What was graded again."""
    out: str
    settings: dict[str, Any] = Field(default_factory=dict)
    behaviors: Sequence[RegradedBehaviorEntry]

    def __getitem__(self, name: str) -> RegradedBehaviorEntry:
        """Return the behavior of that name."""
        return {behavior.name: behavior for behavior in self.behaviors}[name]
