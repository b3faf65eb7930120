"""What was decided: the bottleneck of a behavior, why, and which stage should remove it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from posttrain.diagnose.types.behavior import Purpose, Split
from posttrain.diagnose.types.bottleneck import Bottleneck
from posttrain.diagnose.types.finding import Contribution, Note
from posttrain.diagnose.types.measurement import Check, Estimate


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
    alternatives: tuple[tuple[str, str], ...]
    """(name, why)"""
    predicted_gain: Estimate | None = None
    """Of pass@1, as `decide.stage_effects` has it for a further behavior of the kind; None where nothing was measured."""
    predicted_loss: Estimate | None = None
    """Fall of pass@1 on retention behaviors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedPart:
    """The problems of a mixed behavior that have one label, and the stage for them."""

    label: Bottleneck
    share: float
    """Of the problems, expected under the posterior."""
    stage: str
    problems: tuple[str, ...]
    """Ids of those for which it is the most probable label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PassAtK:
    """One point of the pass@k curve."""

    k: int
    value: Estimate
    extrapolated: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnLimit:
    """What a behavior comes to where only those samples succeed that do so within a number of turns (pass@(k, T), arXiv 2604.14877)."""

    turns: int
    """T."""
    num_samples: int
    """Samples with a known outcome."""
    num_correct: int
    """Those that succeed within T turns."""
    pass_at_k: tuple[PassAtK, ...]
    """pass@(k, T) for k = 1 and the largest k, up to the primary one, that every problem has samples for."""
    bottleneck: Bottleneck
    """The label from these samples alone."""
    confidence: float
    """Its probability, or that of `leans_to`."""
    leans_to: Bottleneck | None = None
    """The most probable label where it is `inconclusive`."""


class ProblemDiagnosis(NamedTuple):
    """The label of one problem, as posterior probabilities; a named tuple, as there may be 10^5."""

    id: str
    split: Split
    state: Bottleneck
    posterior: Mapping[str, float]
    num_samples: int
    num_correct: int
    num_missing: int
    num_unparsed: int
    num_truncated: int
    num_unfinished_thoughts: int
    num_tokens: int
    num_thought_tokens: int
    p: float
    p_low: float
    p_high: float
    p_method: str
    reference_nll_per_token: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SettlesWith:
    """The further effort that is expected to decide what is undecided."""

    samples: int
    tokens: int
    seconds: float
    """At the speed of the samples so far; NaN where it is not known."""
    chance: float
    """Share of simulated continuations that it decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a measurement took. The only part of a diagnosis that may differ between two runs with one seed."""

    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What binds one behavior, how sure that is, and what to do next."""

    name: str
    purpose: Purpose
    bottleneck: Bottleneck
    confidence: float
    """Posterior probability that the label is right; where it is `inconclusive`, that of `leans_to`."""
    leans_to: Bottleneck | None = None
    """The most probable label where it is `inconclusive`."""
    role: Role | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    """Posterior share of the problems with each label."""
    stage: StageAdvice | None
    plan: tuple[PlannedPart, ...] = ()
    """What each part of a mixed behavior needs, for who would train the parts apart."""
    checks: tuple[Check, ...]
    pass_at_k: tuple[PassAtK, ...] = ()
    problems: tuple[ProblemDiagnosis, ...] = ()
    settles_with: SettlesWith | None = None
    cost: Cost
    caveats: tuple[Note, ...]
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
