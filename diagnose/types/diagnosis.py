"""What was decided: the bottleneck of a behavior, why, and which stage should remove it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from posttrain.diagnose.types.behavior import Purpose, Split
from posttrain.diagnose.types.measurement import Check, Estimate


class Bottleneck(StrEnum):
    """What binds."""

    MISSING_SUPPORT = "missing_support"
    GUIDED_ONLY = "guided_only"
    POOR_CHOICE = "poor_choice"
    ATTRITION = "attrition"
    SCAFFOLD_BOUND = "scaffold_bound"
    FORMAT = "format"
    DECODING = "decoding"
    MASTERED = "mastered"
    INVALID = "invalid"
    INCONCLUSIVE = "inconclusive"


class Role(StrEnum):
    """What a stage does to the policy (arXiv 2604.07941)."""

    SUPPORT_EXPANSION = "support_expansion"
    POLICY_RESHAPING = "policy_reshaping"
    BEHAVIORAL_CONSOLIDATION = "behavioral_consolidation"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAdvice:
    """The stage that a diagnosis names."""

    name: str
    provenance: str
    interface: str
    why: str
    needs: tuple[str, ...]
    predicted_gain: Estimate | None
    alternatives: tuple[tuple[str, str], ...]
    """(name, why)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassAtK:
    """One point of the pass@k curve."""

    k: int
    value: Estimate
    extrapolated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemDiagnosis:
    """The state of one problem, as posterior probabilities."""

    id: str
    split: Split
    state: Bottleneck
    posterior: Mapping[str, float]
    num_samples: int
    num_correct: int
    num_missing: int
    num_unparsed: int
    num_truncated: int
    p: float
    p_low: float
    p_high: float
    p_method: str
    reference_nll_per_token: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SettlesWith:
    """The further effort that is expected to settle what is open."""

    samples: int
    tokens: int
    seconds: float
    """At the speed of the samples so far; NaN where it is not known."""
    chance: float
    """Share of simulated continuations that it settles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a measurement took. The only part of a diagnosis that may differ between two runs with one seed."""

    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelEvidence:
    """What a finding says to the verdict: `label` instead of one of `instead_of`."""

    label: Bottleneck
    instead_of: tuple[Bottleneck, ...]
    confidence: float
    """Probability that what it rests on is so; it counts from `Thresholds.confidence` on."""
    because: str
    """In words that go on from "because"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The answer of a probe about one behavior, as plain data."""

    probe: str
    behavior: str
    summary: str
    """What was found, in one or two sentences with their numbers."""
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    """What sums it up, each with its interval; names for people."""
    rows: tuple[Mapping[str, Any], ...] = ()
    """The table behind the picture: one row per point, all with the same keys, JSON values only."""
    problems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Problem id → what was found about it, JSON values only."""
    evidence: tuple[LabelEvidence, ...] = ()
    of_stages: Mapping[str, str] = field(default_factory=dict)
    """Stage → what was measured about it; stands where the stage is named or listed."""
    notes: tuple[str, ...] = ()
    """Caveats, in words."""
    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one probe: its finding, or why it was not run."""

    probe: str
    question: str
    finding: Finding | None = None
    skipped: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one probe did to the verdict."""

    probe: str
    words: str
    """Goes on from the name of the probe: `makes it guided_only instead of missing_support, because ...`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What binds one behavior, how sure that is, and what to do next."""

    name: str
    purpose: Purpose
    bottleneck: Bottleneck
    confidence: float
    """Posterior probability that the label is right."""
    role: Role | None
    shares: Mapping[str, float]
    """Posterior share of problems in each state."""
    stage: StageAdvice | None
    checks: tuple[Check, ...]
    pass_at_k: tuple[PassAtK, ...]
    problems: tuple[ProblemDiagnosis, ...]
    settles_with: SettlesWith | None
    cost: Cost
    caveats: tuple[str, ...]
    sentence: str
    """The verdict in one sentence."""
    contributions: tuple[Contribution, ...] = ()
    """Of the further probes that were run."""


class ProblemChange(StrEnum):
    """What happened to a problem between two runs, where the data can tell."""

    PRESERVED = "preserved"
    EXPANDED = "expanded"
    ATTRITED = "attrited"
    OUT_OF_SUPPORT = "out_of_support"
    UNDETERMINED = "undetermined"
