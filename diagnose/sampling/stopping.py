"""Which samples to draw next: the same number of every problem, or round by round where they change the verdict most.

A round is planned from the counts of the rounds before and from what is left of a budget, so a run that was stopped plans the same rounds again.

Rounds go on until the label is settled, until the primary metric is as precise as was asked for, or until the budget is spent. Every
round is a look at the data, and looking often finds something by chance; so an interim look must be surer than the last one, an early
look far surer (`label_is_decided`), and the law of success rates has points at the thresholds (`posterior_of`). The wrong-verdict rate
at stopping is measured in `benchmarks/coverage.py`, and for labels that hang by a hair in `benchmarks/borderline_labels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats import neyman_allocation, still_uncertain
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior, problem_labels
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck

FIRST = 3
"""Samples of every problem in the first round."""
GROWTH = 1 / 3
"""Samples of a further round, as a share of those that the problems it raises have so far. As a share of all samples,
rounds leap the further the fewer problems are open."""
SMALLEST_ROUND = 32
"""Samples of a round at least: fewer leave a batch half empty."""
MOST = 256
"""Samples per problem, on average, at which rounds end where no budget was given."""
ENOUGH, ENOUGH_OF = 40.0, 50
"""Samples of every problem from which on an interim look may be as doubtful as a last one about which state binds, of so many problems or
more; of fewer the more samples."""
LEAST_DOUBT = 0.002
"""Doubt with which even the first look may end rounds: posterior draws resolve no less."""
DOUBT_OF_MASTERY = 0.01
"""Doubt about whether the behavior is mastered with which rounds may end early: about Pocock's boundary for ten looks at a one-sided
error of .05. A mean is one number, which every look has the same chance to misread."""
LEAST_MARGIN = 0.3
"""Posterior standard deviations that a label is from open, at least, when behaviors are put in turn: what looks open now is often
settled soon, so it must not wait for ever. What is not about a label waits as long as one that hangs by a hair."""
NO_USE = 0.1
"""Share of the variance of the primary metric that further samples of the same problems must be able to remove."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """What samples are drawn for: a fixed number of every problem, or rounds."""

    samples: int | None = None
    """Samples of every problem, in one round and whatever they show; None for rounds."""
    precision: float | None = None
    """Half-width of the 95 % interval wanted for pass@k at the primary k; None where only the label matters."""
    max_tokens: int | None = None
    """Generated tokens at most, greedy samples included."""
    problems: float | None = None
    """Share of problems whose state is to be settled too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What is known before a round."""

    num_samples: Ints
    """[P] with a known outcome."""
    num_correct: Ints
    """[P]"""
    num_sampled: Ints
    """[P] drawn, missing ones counted in."""
    generated_tokens: int
    """Of all samples so far, greedy ones counted in."""
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Further samples, or the reason why there are none."""

    extra: Ints
    """[P]"""
    why: str
    """What the samples are for; or, where there are none, why rounds end."""
    turn: float = 0.0
    """Of behaviors that share a budget, the one with the lowest draws its round first."""

    @property
    def last(self) -> bool:
        """Whether nothing more is drawn."""
        return not self.extra.any()


def next_round(
    counts: Counts,
    goal: Goal,
    *,
    epsilon: float,
    primary_k: int,
    max_tokens: int,
    thresholds: Thresholds,
    seed: int,
    known: LabelPosterior | None = None,
) -> Round:
    """Plan a round.

    Args:
        counts: What all rounds so far found.
        goal: What for.
        epsilon: Rate under which a problem is out of support.
        primary_k: k of the primary pass@k.
        max_tokens: Most tokens of one sample.
        thresholds: What a label hangs on.
        seed: Of posterior draws and of ties.
        known: What the counts say, where that is at hand (`known_of`).
    """
    num_problems, drawn = len(counts.num_samples), int(counts.num_sampled.sum())
    if goal.samples is not None:
        return Round(extra=np.maximum(0, goal.samples - counts.num_sampled), why=f"{goal.samples} samples of every problem")
    nothing = np.zeros(num_problems, dtype=np.int64)
    per_sample = _tokens_of_a_sample(counts, max_tokens)
    left = (
        (MOST * num_problems - drawn)
        if goal.max_tokens is None
        else int((goal.max_tokens - counts.generated_tokens) / per_sample)
    )
    if left < 1:
        return Round(
            extra=nothing,
            why="the token budget is spent" if goal.max_tokens is not None else f"{MOST} samples per problem are drawn",
        )
    if not drawn:
        return Round(extra=_even(num_problems, min(left, FIRST * num_problems)), why="a first look")
    known = known or known_of(counts, epsilon=epsilon, thresholds=thresholds, seed=seed)
    rng = np.random.default_rng([seed, drawn])
    reached = "the label is settled"

    def raised(doubt: npt.NDArray[np.float64]) -> Ints:
        return neyman_allocation(counts.num_samples, doubt, budget=min(left, size_of_round(counts.num_sampled, doubt)), rng=rng)

    if not label_is_decided(known, counts.num_samples, thresholds):
        extra = raised(_matters(known, epsilon, thresholds))
        if extra.any():
            why = f"the label is open ({known.label} {known.confidence:.0%})"
            return Round(extra=extra, why=why, turn=turn_of(known, counts.generated_tokens))
        reached = "no further sample can settle the label"
    if goal.precision is not None:
        interval = known.mixture.pass_at_k(primary_k)
        half = (interval.high - interval.low) / 2
        rates = known.mixture.grid.rates
        values = 1.0 - (1.0 - rates) ** primary_k
        if half > goal.precision and _removable(known, values) > NO_USE:
            # How far one sample more moves the estimate: the slope of 1 − (1−p)^k times the standard deviation of an outcome.
            slope = primary_k * (1.0 - rates) ** (primary_k - 1)
            doubt = np.sqrt(known.mixture.pair_posterior @ (slope**2 * rates * (1.0 - rates)))[known.mixture.place]
            extra = raised(doubt)
            if extra.any():
                return Round(extra=extra, why=f"pass@{primary_k} is known to ± {half:.3f}", turn=later(counts.generated_tokens))
        reached += f"; pass@{primary_k} is known to ± {half:.3f}"
        if half > goal.precision:
            reached += f", and only more problems can bring it to ± {goal.precision:g}"
    if goal.problems is not None:
        unsettled = undecided_problems(known, epsilon, thresholds)
        share = float(1.0 - unsettled.mean())
        if share < goal.problems:
            extra = raised(unsettled.astype(np.float64))
            if extra.any():
                return Round(extra=extra, why=f"{share:.0%} of the problems are settled", turn=later(counts.generated_tokens))
        reached += f"; {share:.0%} of the problems are settled"
    return Round(extra=nothing, why=reached)


def later(spent: float) -> float:
    """The turn of what is not about a label: a label that hangs by a hair may have had as much by then, and all others are settled."""
    return spent / LEAST_MARGIN


def known_of(counts: Counts, *, epsilon: float, thresholds: Thresholds, seed: int) -> LabelPosterior:
    """What all rounds so far say about the label."""
    return label_posterior(
        counts.num_samples, counts.num_correct, epsilon=epsilon, thresholds=thresholds, groups=counts.groups, seed=seed
    )


def label_is_decided(known: LabelPosterior, num_samples: Ints, thresholds: Thresholds) -> bool:
    """Whether an interim look may take the label for known.

    Which state binds rests on the law of success rates, and few samples leave much of that law to the prior: its doubt about them can
    be too small. So the doubt a look may leave grows with the square of the samples behind it, up to that of a last look.

    Args:
        known: What the samples say.
        num_samples: [P]
        thresholds: What a label hangs on.
    """
    share = min(1.0, float(num_samples.mean()) * min(1.0, num_samples.size / ENOUGH_OF) / ENOUGH)
    allowed = max(LEAST_DOUBT, (1.0 - thresholds.confidence) * share**2)
    mastered = known.shares[Bottleneck.MASTERED]
    return 1.0 - known.confidence <= allowed and min(mastered, 1.0 - mastered) <= DOUBT_OF_MASTERY


def turn_of(known: LabelPosterior, spent: float) -> float:
    """When it is a behavior's turn to spend of a budget that it shares: the lowest is next.

    What a label costs is seldom known before it is settled. Those that are nearest and have had least are the best bets; one that hangs by
    a hair waits until the others are settled, and gets what they left.

    Args:
        known: What the samples say.
        spent: Samples or tokens so far.
    """
    return spent / max(LEAST_MARGIN, float(scipy.special.ndtri(known.confidence)))


def undecided_problems(known: LabelPosterior, epsilon: float, thresholds: Thresholds) -> npt.NDArray[np.bool_]:
    """Which problems [P] an interim look may not leave alone.

    Here each problem needs the confidence of a label for itself, beside the expected error of all. Problems that are easy must not make up
    for one at a threshold, which is sooner or later found on one side by some look.
    """
    surer = replace(thresholds, problem_confidence=thresholds.confidence)
    return problem_labels(known.mixture.interval_probabilities((epsilon, thresholds.mastered), strict=True), surer) < 0


def size_of_round(num_sampled: Ints, doubt: npt.NDArray[np.float64]) -> int:
    """Samples of a round for problems [P] with that much doubt."""
    return max(SMALLEST_ROUND, int(GROWTH * num_sampled[still_uncertain(doubt)].sum()))


def _tokens_of_a_sample(counts: Counts, max_tokens: int) -> float:
    """What a further sample is likely to take: the mean, and before any is drawn up to twice as much as a greedy one."""
    if not counts.generated_tokens:
        return float(max_tokens)
    drawn, num_problems = int(counts.num_sampled.sum()), len(counts.num_samples)
    mean = max(1.0, counts.generated_tokens / (drawn + num_problems))
    return mean if drawn else min(float(max_tokens), 2.0 * mean)


def _even(num_problems: int, total: int) -> Ints:
    extra = np.full(num_problems, total // num_problems, dtype=np.int64)
    extra[: total % num_problems] += 1
    return extra


def _matters(known: LabelPosterior, epsilon: float, thresholds: Thresholds) -> npt.NDArray[np.float64]:
    """How much doubt [P] each problem leaves in the margin that the label hangs on by a hair.

    The label is `mastered` or not by the mean rate, and else turns on how many problems are unreliable less how many are out of
    support. Whichever margin is closer to zero, counted in posterior standard deviations, is the one to sharpen.
    """
    rates = known.mixture.grid.rates
    if known.shares[Bottleneck.MASTERED] > 0.5 or _closeness(known.mean - thresholds.mastered) < _closeness(
        (known.counts[:, 1] - known.counts[:, 0]).astype(np.float64)
    ):
        doubt = known.mixture.pair_posterior @ (rates * (1.0 - rates))
        return np.asarray(np.sqrt(np.maximum(doubt, 0.0)))[known.mixture.place]
    balance = ((rates >= epsilon) & (rates < thresholds.mastered)).astype(np.float64) - (rates < epsilon)
    moments = known.mixture.pair_posterior @ np.stack([balance, balance**2], axis=1)
    doubt = np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 0.0))
    return np.asarray(doubt)[known.mixture.place]


def _closeness(margin: npt.NDArray[np.float64]) -> float:
    return float(abs(margin.mean()) / max(margin.std(), 1e-12))


def _removable(known: LabelPosterior, values: npt.NDArray[np.float64]) -> float:
    """Share of the variance of a mean over problems that is doubt about these problems, not their being few."""
    moments = known.mixture.pair_posterior @ np.stack([values, values**2], axis=1)
    weights = known.mixture.repeats / known.mixture.repeats.sum()
    within = float(weights @ (moments[:, 1] - moments[:, 0] ** 2))
    mean = float(weights @ moments[:, 0])
    between = float(weights @ (moments[:, 0] - mean) ** 2)
    return within / max(within + between, 1e-12)
