"""Every number that a verdict depends on, in one place; `run.json` records them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, NamedTuple, Self, cast, get_args, get_type_hints

from posttrain.diagnose.errors import SettingsError


class _Range(NamedTuple):
    """Numbers that a threshold may be."""

    low: float
    high: float
    words: str

    def holds(self, value: float) -> bool:
        """Say whether a number is one of them."""
        return self.low <= value <= self.high and math.isfinite(value)


_TINY = 1e-12
Share = Annotated[float, _Range(0.0, 1.0, "a number from 0 to 1")]
Probability = Annotated[float, _Range(_TINY, 1.0 - _TINY, "a number between 0 and 1")]
Rate = Annotated[float, _Range(_TINY, 1.0, "a number above 0, up to 1")]
Positive = Annotated[float, _Range(_TINY, math.inf, "a number above 0")]
Weight = Annotated[float, _Range(0.0, math.inf, "a number from 0 on")]
Count = Annotated[int, _Range(1, 10**9, "a whole number from 1 on")]


@cache
def _ranges_of(thresholds: Hashable) -> dict[str, tuple[type[Any], _Range | None]]:
    """Return, of each field of a class, its type and what it may be where it is a number."""
    hints = get_type_hints(thresholds, include_extras=True)
    return {name: get_args(hint) or (hint, None) for name, hint in hints.items()}


class _Ranges:
    """The base of dataclasses whose numbers must be in range."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Refuse numbers out of range.

        Raises:
            SettingsError: Code `threshold_out_of_range`.
        """
        for name, (kind, allowed) in _ranges_of(cast(Hashable, type(self))).items():
            value = getattr(self, name)
            is_of_kind = isinstance(value, float | int if kind is float else kind) and not isinstance(value, bool)
            if not is_of_kind or (allowed is not None and not allowed.holds(value)):
                raise SettingsError(
                    f"thresholds: {name}: got {value!r}; allowed is {allowed.words if allowed else kind.__name__}",
                    code="threshold_out_of_range",
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingThresholds(_Ranges):
    """Hold what decides how many samples are taken, where their number is not fixed."""

    first_round: Count = 8
    """Samples of every problem in the first round: after four, rates between epsilon and a quarter look alike, and labels are said too soon."""
    growth: Positive = 0.25
    """Samples of a further round, as a share of those that every problem has. Half, or as many again, overshoots what decides the label by more."""
    max_samples: Count = 256
    """Samples per problem at which sampling ends where no budget was given."""
    confidence: Probability = 0.95
    """Confidence in the label at which an interim analysis ends sampling: that of the last one. A higher one took an eighth more samples and
    saved no wrong label on held-out distributions."""
    removable_variance: Share = 0.1
    """Share of the variance of the primary metric that further samples of the same problems must be able to remove."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixLadderThresholds(_Ranges):
    """Hold what the prefix ladder decides by."""

    sufficient: Share = 0.25
    """Success rate from which a prefix is enough: a group of 8 samples then holds a success in 90 % of cases, so that training from it
    nearly always has a learning signal; a dozen samples show it, where the behavior's epsilon would take hundreds at every rung."""
    rung_confidence: Probability = 0.9
    """Posterior probability at which a rung is decided, to either side."""
    placebo_gain: Share = 0.5
    """A placebo that brings this part of the gain of the path itself helps as much."""
    share_out_of_support: Share = 0.1
    """Share of problems out of support below which the probe is not worth its cost: how they could be reached changes no advice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AvailabilityThresholds(_Ranges):
    """Hold what the availability probe decides by."""

    many_paths: Positive = 10.0
    """Success this many times as frequent as the reference paths are likely does not come from them: an order of magnitude is beyond what
    the sampling error of a rate and the rounding of a likelihood explain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingThresholds(_Ranges):
    """Hold what the decoding probe decides by."""

    majority: Share = 0.5
    """Success rate at temperature 1 above which cooling can master a problem whose greedy answer is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaffoldThresholds(_Ranges):
    """Hold what the scaffold probe decides by."""

    times: Positive = 2.0
    """How many times the baseline success rate a scaffold must reach: where it does less than double it, most successes need no help."""
    share_of_problems: Share = 0.5
    """A scaffold that exists for no more than this share of the problems says nothing about the behavior."""
    share_of_format: Share = 0.1
    """Share of samples that a scaffold makes readable, from which a part of its gain is said to be format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftThresholds(_Ranges):
    """Hold what the drift probe decides by."""

    kept: Share = 0.5
    """A problem that keeps less than this share of its success rate is lost: every success then costs twice the samples."""
    share_lost: Share = 0.5
    """Share of the problems that are not mastered which must be lost, for attrition to be the bottleneck."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherThresholds(_Ranges):
    """Hold what the teacher probe decides by."""

    far: Positive = 1.0
    """Nats per token from which one model's paths count as far from the other's: a run of five such tokens has e^−5 = .0067 of the
    probability that its author gives it, which is the default epsilon: no phrase of that length is met by sampling."""
    right_above_wrong: Share = 0.5
    """Share of pairs in which the teacher must surely prefer the right sample; one half is chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataThresholds(_Ranges):
    """Hold what the data probe decides by."""

    own_within: Share = 0.95
    """Share of the policy's own answers that the limit of support admits: out of support is what one in twenty of them is, as in a test at
    5 %."""
    fewest_own: Count = 20
    """Own answers below which no twentieth of them exists, and epsilon alone is the limit."""
    majority: Share = 0.5
    """Share of the gradient, or of the loss, that decides the role; an interval that holds it decides none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiversityThresholds(_Ranges):
    """Hold what the diversity probe decides by."""

    explained: Share = 0.5
    """Guessing explains a pass@k of which it reaches at least this part, and which is not shown to be higher."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangeThresholds(_Ranges):
    """Hold what decides whether a problem or a behavior changed between two policies."""

    false_discovery_rate: Probability = 0.05
    """Of problems called expanded or attrited."""
    support_confidence: Probability = 0.95
    """Posterior probability from which a problem counts as in, or out of, support, and from which the place of a change is certain."""
    role_error: Probability = 0.05
    """Share of comparisons of one model with itself that may be given a role."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerThresholds(_Ranges):
    """Hold what decides which further effort is promised to settle an open label."""

    wanted: Share = 0.8
    """Share of simulated continuations in which the label should be decided."""
    least: Share = 0.5
    """Share of them below which nothing is promised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds(_Ranges):
    """Hold every number that a verdict depends on, but epsilon, which belongs to the behavior."""

    mastered: Rate = 0.9
    """Success rate from which a problem, or a behavior, needs no training."""
    confidence: Probability = 0.95
    """Posterior probability that the label of a behavior, or of a single problem, needs; below it the verdict is inconclusive."""
    evidence: Share = 0.05
    """Posterior probability above which a probe reports evidence for a label. It changes the label from `confidence` on, and below that it is doubt in it:
    what is less than 1 − `confidence` cannot open a label."""
    fewest_problems: Count = 5
    """Problems below which no training is advised: five of one kind are the fewest that show, at a one-sided error of .05 (2^−5), that the
    same holds for most of the population that they come from."""
    reachable: Share = 0.5
    """Pass@k at the primary k from which a behavior counts as reachable on the whole."""
    mixed_share: Share = 0.2
    """Share of the problems that each of two labels must hold for the behavior to be mixed: with less, a stage for the other part alone leaves
    little behind."""
    retention_weight: Weight = 1.0
    """What a fall of the retention behaviors counts against a gain of the same size on the target."""
    open_regret: Share = 0.05
    """Expected utility, in pass@1, that the named stage may lose against the best one while the label is open; with more, the verdict asks for
    further samples."""
    within_support: Share = 0.5
    """Share of problems with a success rate of at least epsilon that the check `share within support` asks for."""
    max_truncated: Share = 0.2
    max_unparsed: Share = 0.5
    max_missing: Share = 0.05
    max_pilot: Share = 0.5
    """Share of the pilot's samples that are truncated, or cannot be read, above which a behavior is not sampled further."""
    max_pilot_limit: Share = 0.125
    """Share of the pilot's samples that run into a limit that is to be found, above which the limit is doubled."""
    max_refused: Share = 0.05
    """Share of right answers, or of reference paths, that the verifier may refuse or the sampler may be unable to write."""
    max_wrong_accepted: Share = 0.25
    """Share of wrong answers made to be mistaken for the right one, or of other problems' answers, that the verifier may accept."""
    max_listing: Share = 0.1
    """Share of the successes that may list several candidates, where the verifier accepts such a list."""
    contradiction: Share = 0.001
    """Probability of so few successes, given how likely the reference paths are, below which the measurement contradicts itself."""
    max_format_gain: Positive = 1.0
    """Nats per token by which references may be likelier with the prompt in another format than the one that is used."""
    ends: Share = 0.1
    """Probability of the end token behind a reference path from which a model is said to end such answers ..."""
    never_ends: Share = 0.01
    """... and below which it is said not to."""
    improbable_path: Share = 0.5
    """Share of reference paths with a step below epsilon, from which the paths count as out of reach."""
    level: Probability = 0.95
    """Of all intervals."""
    num_draws: Count = 1024
    """Posterior draws of the probes."""
    sampling: SamplingThresholds = field(default_factory=SamplingThresholds)
    prefix_ladder: PrefixLadderThresholds = field(default_factory=PrefixLadderThresholds)
    availability: AvailabilityThresholds = field(default_factory=AvailabilityThresholds)
    decoding: DecodingThresholds = field(default_factory=DecodingThresholds)
    scaffold: ScaffoldThresholds = field(default_factory=ScaffoldThresholds)
    drift: DriftThresholds = field(default_factory=DriftThresholds)
    teacher: TeacherThresholds = field(default_factory=TeacherThresholds)
    data: DataThresholds = field(default_factory=DataThresholds)
    diversity: DiversityThresholds = field(default_factory=DiversityThresholds)
    change: ChangeThresholds = field(default_factory=ChangeThresholds)
    power: PowerThresholds = field(default_factory=PowerThresholds)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` wrote, perhaps in another version: what is missing has its default, what is unknown is ignored."""
        from pydantic import TypeAdapter  # takes longer to import than the verbs that need thresholds alone may take

        return TypeAdapter(cls).validate_python(data)
