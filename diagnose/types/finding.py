"""What further probes found, and what became of each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from posttrain.diagnose.types.bottleneck import Bottleneck
from posttrain.diagnose.types.measurement import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelEvidence:
    """Hold what a finding says to the verdict: `label` instead of one of `instead_of`."""

    label: Bottleneck
    instead_of: tuple[Bottleneck, ...]
    confidence: float
    """Probability that what it rests on is so; it counts from `Thresholds.confidence` on."""
    because: str
    """In words that go on from "because"."""
    trains_as: Bottleneck | None = None
    """The label whose stages fit, where they are those of another one."""


@dataclass(frozen=True, slots=True)
class Note:
    """Hold a caveat: a code for programs, a sentence for people."""

    code: str
    text: str

    @classmethod
    def all(cls, texts: Mapping[str, str]) -> tuple[Self, ...]:
        """Return one note per code."""
        return tuple(cls(code, text) for code, text in texts.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The answer of a probe about one behavior, as plain data."""

    probe: str = ""
    """Its name, and that of the behavior: filled in where the probe is run."""
    behavior: str = ""
    outcome: str
    """What was found: a value of the probe's own enum."""
    summary: str
    """The same for people, in one or two sentences with their numbers."""
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    """What sums it up, each with its interval; names for people."""
    rows: tuple[Mapping[str, Any], ...] = ()
    """The table behind the picture: one row per point, all with the same keys, JSON values only."""
    problems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Problem id → what was found about it, JSON values only."""
    evidence: tuple[LabelEvidence, ...] = ()
    of_stages: Mapping[str, str] = field(default_factory=dict)
    """Stage → what was measured about it; stands where the stage is named or listed."""
    rules_out: Mapping[str, str] = field(default_factory=dict)
    """Stage → why it would learn nothing, in words."""
    notes: tuple[Note, ...] = ()
    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0


class SkipReason(StrEnum):
    """Why a probe was not run: a code, and words that go on from "not run: "."""

    words: str

    def __new__(cls, code: str, words: str) -> Self:
        """Return the member of a code; its words are an attribute."""
        member = str.__new__(cls, code)
        member._value_, member.words = code, words
        return member

    NO_SAMPLES = "no_samples", "there are no samples"
    NO_REFERENCES = "no_references", "the problems have no reference paths"
    NO_RIGHT_PATHS = "no_right_paths", "there are neither reference paths nor right samples"
    NO_TEACHER = "no_teacher", "there is no teacher; give one with --teacher"
    NO_EARLIER_POLICY = (
        "no_earlier_policy",
        "there is no earlier policy; give an earlier checkpoint (--earlier) or an earlier run (--before)",
    )
    NO_DATA = "no_data", "there is no data set; give one with --data FILE"
    NO_SCAFFOLD = "no_scaffold", "no train problem has a reference to show, too few problems have a hint, and there is no teacher"
    HINTS_STATE_THE_ANSWER = "hints_state_the_answer", "the hints state the answer, and there is no other scaffold"
    SAME_MODEL = "same_model", "the other checkpoint is the same model"
    MASTERED = "mastered", "the behavior is mastered"
    GREEDY_MASTERS = "greedy_masters", "greedy decoding masters it already"
    COOLING_CANNOT_HELP = (
        "cooling_cannot_help",
        "too many problems have a wrong answer both greedily and in most samples for cooling to master the behavior",
    )
    NOTHING_TO_COOL = "nothing_to_cool", "no sample is right, so there is nothing that cooling could make likelier"
    DEPLOYMENT_POLICY = (
        "deployment_policy",
        "the behavior is sampled cooler than the policy or truncated; measure it at temperature 1 without truncation",
    )
    WITHIN_SUPPORT = (
        "within_support",
        "so few problems are likely to be out of support that how they could be reached changes no advice",
    )
    REACHABLE = "reachable", "the baseline success rate is so high that it does not depend on a scaffold"
    RETENTION = "retention", "a retention behavior is watched, not trained; name the probe to run it all the same"
    TOO_FEW_TOKENS = "too_few_tokens", "the token budget holds the samples of too few problems"
    BUDGET_SPENT = "budget_spent", "the token budget is spent"
    CANNOT_SCORE = "cannot_score", "the engine cannot score"
    NOT_SUPPORTED = "not_supported", "the engine, the model or the data lack what it needs"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What became of one probe: its finding, or why it was not run."""

    probe: str
    question: str
    finding: Finding | None = None
    skipped: SkipReason | None = None
    detail: str = ""
    """What an engine said, where the reason is `not_supported`."""

    @property
    def skipped_words(self) -> str:
        """Return why it was not run, for people; empty where it was."""
        return self.detail or (self.skipped.words if self.skipped else "")


class ContributionKind(StrEnum):
    """What one probe did to the verdict."""

    DECIDED = "decided"
    """Its evidence changed the label."""
    NOT_SURE_ENOUGH = "not_sure_enough"
    """It has evidence for another label, below `Thresholds.confidence`."""
    ANOTHER_DECIDED = "another_decided"
    """It has evidence for another label too, and another probe's came first."""
    NOT_APPLICABLE = "not_applicable"
    """It has evidence for a label that cannot replace this one."""
    NONE = "none"
    """It has no evidence for another label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one probe did to the verdict."""

    probe: str
    kind: ContributionKind
    label: Bottleneck | None
    """The label that its evidence is for."""
    words: str
    """The same for people; goes on from the name of the probe: `makes it guided_only instead of missing_support, because ...`."""
