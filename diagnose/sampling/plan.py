"""What to sample next: a fixed number of samples of every problem, or rounds until the label is decided.

A fixed number that takes many tokens comes in two rounds, so that something can be reported after the first, which is sampled before the greedy
samples that follow the pilot. Where samples are taken until the
label is decided, each round gives every problem a quarter more samples than it has. Rounds go on until the label is decided, until the primary metric is as
precise as was asked for, or until the budget is spent. Measured for this project, under the same posterior, and dropped: rounds that
sample the problems whose rates leave most doubt, which took as many samples for as many right labels.

Every round is followed by an interim analysis, which must be as sure of the label as the last one (`SamplingThresholds.confidence`); how often
labels are wrong at stopping is measured in `benchmarks/held_out_statistics.py`. A round is planned from the counts of the rounds before and from what
is left of a budget, so that a run that was stopped plans the same rounds again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from posttrain.analysis.stats import IntArray
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior
from posttrain.diagnose.thresholds import SamplingThresholds, Thresholds

DEFAULT_SAMPLES = 16
FIRST_SAMPLES = 4
"""Samples of every problem in the first of two rounds."""
MANY_TOKENS = 65_536
"""Tokens from which a fixed number of samples comes in two rounds: a few minutes on a processor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What samples are taken for: a fixed number of every problem, or rounds until something is known."""

    samples: int | None = None
    """Samples of every problem, in one round; None for rounds."""
    precision: float | None = None
    """Half-width of the 95 % interval wanted for pass@k at the primary k; None where only the label matters."""
    max_tokens: int | None = None
    """Generated tokens at most, greedy samples included."""

    @property
    def adaptive(self) -> bool:
        """Whether the number of samples depends on what they show."""
        return self.samples is None


MOST_SAMPLES, MOST_TOKENS = 10**6, 10**12
"""Samples of a problem, and generated tokens of a run, at most: far more than any run takes, and all sums fit into 64 bits."""
LEAST_PRECISION = 0.001
"""Smallest half-width that can be asked for: a quarter of a million samples of one problem, and of many problems no fewer."""
MOST_SEED = 2**63 - 1
"""Largest random seed: torch takes none above it."""


def check_seed(seed: int) -> None:
    """Refuse a random seed below 0 (`negative_seed`) or above `MOST_SEED` (`seed_too_large`).

    Raises:
        SettingsError: It is one.
    """
    if seed < 0:
        raise SettingsError(f"--seed: got {seed}, a whole number from 0 on is needed", code="negative_seed")
    if seed > MOST_SEED:
        raise SettingsError(f"--seed: got {seed}, a whole number up to {MOST_SEED} is needed", code="seed_too_large")


def sampling_goal(samples: int | None, precision: float | None = None, max_tokens_total: int | None = None) -> Goal:
    """Return what to take samples for; 16 of every problem where nothing is asked for.

    Raises:
        SettingsError: a number out of range (`samples`, `precision`, `max_tokens_total`), or a fixed number of samples and rounds at once
            (`samples_and_rounds`).
    """
    in_rounds = precision is not None or max_tokens_total is not None
    if samples is not None and in_rounds:
        raise SettingsError(
            "--samples takes a fixed number, --precision and --max-tokens-total sample in rounds; give one or the other",
            code="samples_and_rounds",
        )
    if samples is not None and not 1 <= samples <= MOST_SAMPLES:
        raise SettingsError(
            f"--samples: got {samples}, a number from 1 to {MOST_SAMPLES:,} is needed; {DEFAULT_SAMPLES} is the default",
            code="samples",
        )
    if precision is not None and not LEAST_PRECISION <= precision < 0.5:
        raise SettingsError(
            f"--precision: got {precision:g}, a half-width from {LEAST_PRECISION:g} to below .5 is needed, such as .05",
            code="precision",
        )
    if max_tokens_total is not None and not 1 <= max_tokens_total <= MOST_TOKENS:
        raise SettingsError(
            f"--max-tokens-total: got {max_tokens_total}, a number from 1 to {MOST_TOKENS:,} is needed, such as 100000",
            code="max_tokens_total",
        )
    if samples is None and not in_rounds:
        samples = DEFAULT_SAMPLES
    return Goal(samples=samples, precision=precision, max_tokens=max_tokens_total)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCounts:
    """What is known before a round."""

    num_samples: IntArray
    """[P] with a known outcome."""
    num_correct: IntArray
    """[P]"""
    num_sampled: IntArray
    """[P] sampled, missing outcomes counted in."""
    generated_tokens: int
    """Of all samples so far, greedy ones counted in."""
    greedy_tokens: int = 0
    """What greedy samples of all problems take, or are likely to take; 0 where nothing is known of it."""
    groups: tuple[str, ...] | None = None


class RoundReason(StrEnum):
    """Why a round is sampled, or why rounds end."""

    FIXED = "fixed"
    FIRST = "first_round"
    LABEL = "label_undecided"
    PRECISION = "precision_wanted"
    LABEL_DECIDED = "label_decided"
    BUDGET_SPENT = "budget_spent"
    MOST_SAMPLES = "most_samples"


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Further samples, or the reason why there are none."""

    extra: IntArray
    """[P] samples that each problem is to get."""
    reason: RoundReason
    words: str
    """The reason with its numbers, for people."""
    priority: float = 0.0
    """Of behaviors that share a budget, the one with the lowest samples its round first."""

    @property
    def last(self) -> bool:
        """Whether nothing more is sampled."""
        return not self.extra.any()


def comes_in_two_rounds(goal: Goal, greedy_tokens: int) -> bool:
    """Return whether a fixed number of samples is likely to take many tokens, judged by those of one greedy sample of every problem."""
    return goal.samples is not None and goal.samples * greedy_tokens > MANY_TOKENS


def next_round(
    counts: SampleCounts,
    goal: Goal,
    *,
    epsilon: float,
    primary_k: int,
    max_tokens: int,
    thresholds: Thresholds,
    seed: int,
) -> Round:
    """Plan a round.

    Args:
        counts: What all rounds so far found.
        goal: What for.
        epsilon: Rate under which a problem is out of support.
        primary_k: k of the primary pass@k.
        max_tokens: Most tokens of one sample.
        thresholds: What a label depends on.
        seed: Random seed of posterior draws.
    """
    sampled, generated_tokens = counts.num_sampled, counts.generated_tokens
    if goal.samples is not None:
        in_two = not sampled.any() and comes_in_two_rounds(goal, counts.greedy_tokens)
        upto = min(FIRST_SAMPLES, goal.samples) if in_two else goal.samples
        words = f"{f'{upto} of ' if in_two else ''}{goal.samples} samples of every problem"
        return Round(extra=np.maximum(0, upto - sampled), reason=RoundReason.FIXED, words=words)
    rule = thresholds.sampling
    left = _samples_left(sampled, goal, max_tokens, generated_tokens, rule)
    last = float(MOST_TOKENS + generated_tokens)  # what is not about a label waits until all labels are decided
    if left < 1:
        reason, words = RoundReason.BUDGET_SPENT, "the token budget is spent"
        if goal.max_tokens is None:
            reason, words = RoundReason.MOST_SAMPLES, f"{rule.max_samples} samples per problem are taken"
        return Round(extra=np.zeros_like(sampled), reason=reason, words=words, priority=last)
    if not sampled.any():
        extra = _spread(sampled.size, min(left, rule.first_round * sampled.size))
        return Round(extra=extra, reason=RoundReason.FIRST, words="the first round")
    further = _grow(sampled, left, rule.growth)
    posterior = label_posterior(
        counts.num_samples, counts.num_correct, epsilon=epsilon, thresholds=thresholds, groups=counts.groups, seed=seed
    )
    confidence = posterior.sampling_confidence
    if confidence < rule.confidence:
        words = f"the label is undecided (leans to {posterior.label})"
        # Behaviors that are nearest to a label and have had least come first; a borderline one gets what they leave.
        return Round(extra=further, reason=RoundReason.LABEL, words=words, priority=generated_tokens * (1.0 - confidence))
    words = "the label is decided"
    if goal.precision is not None:
        interval = posterior.mixture.pass_at_ks([primary_k])[0]
        half = (interval.high - interval.low) / 2
        known = f"pass@{primary_k} is known to ± {half:.3f}"
        words += f"; {known}"
        if half > goal.precision:
            if removable_share(posterior, primary_k) > rule.removable_variance:
                return Round(extra=further, reason=RoundReason.PRECISION, words=known, priority=last)
            words += f", and only more problems can bring it to ± {goal.precision:g}"
    return Round(extra=np.zeros_like(sampled), reason=RoundReason.LABEL_DECIDED, words=words, priority=last)


def removable_share(posterior: LabelPosterior, k: int) -> float:
    """Return the share of the variance of pass@k that is doubt about these problems, and not due to their small number."""
    mixture = posterior.mixture
    values = 1.0 - (1.0 - mixture.draws[1]) ** k
    moments = mixture.expectations(np.stack([values, values**2], axis=2)).mean(axis=0)
    weights = mixture.repeats / mixture.repeats.sum()
    within = float(weights @ (moments[:, 1] - moments[:, 0] ** 2))
    between = float(weights @ (moments[:, 0] - weights @ moments[:, 0]) ** 2)
    return within / max(within + between, 1e-12)


def _grow(sampled: IntArray, left: int, growth: float) -> IntArray:
    """Return [P] samples that bring every problem to the same number: more than the most so far by `growth`, or what the budget holds."""
    most = int(sampled.max())
    wanted = np.maximum(0, max(most + 1, int(np.ceil(most * (1.0 + growth)))) - sampled)
    return wanted if wanted.sum() <= left else _spread(sampled.size, left)


def _spread(num_problems: int, total: int) -> IntArray:
    """Return how many [P] of `total` samples each problem gets; the first ones get one more where they do not divide."""
    extra = np.full(num_problems, total // num_problems, dtype=np.int64)
    extra[: total % num_problems] += 1
    return extra


def _samples_left(sampled: IntArray, goal: Goal, max_tokens: int, generated_tokens: int, rule: SamplingThresholds) -> int:
    """Return the samples that may still be taken."""
    num_sampled, num_problems = int(sampled.sum()), sampled.size
    if goal.max_tokens is None:
        return rule.max_samples * num_problems - num_sampled
    # A further sample is likely to take the mean, and before any is taken up to twice as much as a greedy one.
    tokens = float(max_tokens)
    if generated_tokens:
        mean = max(1.0, generated_tokens / (num_sampled + num_problems))
        tokens = mean if num_sampled else min(tokens, 2.0 * mean)
    return int((goal.max_tokens - generated_tokens) / tokens)
