"""Samples of the same problems under another condition, compared with the baseline: what scaffold, decoding and teacher share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, mean_interval, paired_delta_interval, posterior_changes
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior
from posttrain.diagnose.probes.base import ProbeContext
from posttrain.diagnose.types import Estimate, GradeStatus, Rollout

Counts = npt.NDArray[np.int64]

SAMPLES = 4
"""Of one problem and condition: further ones would sharpen single problems, and the rule is about their mean."""
FEWEST_SAMPLES = 2
"""Fewer problems are sampled rather than fewer samples: with one sample, chance and spread between problems cannot be told apart."""
FEWEST_PROBLEMS = 5
"""Of a condition, where the behavior has as many: an interval over fewer problems covers nearly the whole range."""
_MALFORMED = (GradeStatus.UNPARSED, GradeStatus.UNFINISHED_THOUGHT)
TOKEN_MARGIN = 1.5
"""How much longer new samples are taken to be than the baseline samples were on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionResult:
    """Samples under one condition, compared with the baseline samples of the same problems."""

    condition: str
    stands_for: Counts
    """[E] places in `MeasuredBehavior.problems` of those that the condition exists for."""
    share: float
    """How much of the behavior they are."""
    sampled: Counts
    """[C] places of those that were sampled, a random part of them."""
    num_samples: Counts
    """[C] with a known outcome."""
    num_correct: Counts
    """[C]"""
    num_malformed: int
    """Samples that could not be read, or were cut off."""
    rate: Interval
    """Mean success rate over the problems."""
    gain: Interval
    """Its paired difference from the baseline rate of the same problems."""


def table_row(condition: str, n_problems: int, n: int, c: int, rate: Interval, gain: Interval | None) -> dict[str, Any]:
    """Return a row of the table; the one that the others are compared with has no gain."""
    values = {"rate": rate.estimate, "low": rate.low, "high": rate.high}
    values |= {"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high} if gain else {}
    numbers = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
    empty = dict.fromkeys(("gain", "gain_low", "gain_high"))
    return {"condition": condition, "n_problems": n_problems, "n": n, "c": c, **empty, **numbers}


class ConditionTable:
    """The rows and numbers of a finding that compares conditions with a baseline."""

    def __init__(self, context: ProbeContext, condition: str, name: str):
        """Begin with the baseline.

        Args:
            context: Of the probe.
            condition: Names the baseline in the table.
            name: Names it in the numbers, after "pass@1".
        """
        counts = context.counts
        self.baseline = baseline_rate(context)
        self.counts = len(counts.problem_ids), int(counts.num_samples.sum()), int(counts.num_correct.sum())
        """Problems, samples and successes of the baseline."""
        self.rows = [table_row(condition, *self.counts, self.baseline, None)]
        self.numbers = {f"pass@1 {name}": Estimate.of(self.baseline)}

    def add(self, one: ConditionResult, name: str) -> None:
        """Add a condition; `name` goes on from "pass@1" and "gain"."""
        num_samples, num_correct = int(one.num_samples.sum()), int(one.num_correct.sum())
        self.rows.append(table_row(one.condition, len(one.sampled), num_samples, num_correct, one.rate, one.gain))
        self.numbers |= {f"pass@1 {name}": Estimate.of(one.rate), f"gain {name}": Estimate.of(one.gain)}


def signed(gain: Interval) -> str:
    """Write a gain with its interval."""
    return f"{gain.estimate:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def in_random_order(context: ProbeContext, places: Sequence[int]) -> list[int]:
    """Return places of problems in an order that depends on the seed and the problems' ids alone."""

    def number(place: int) -> bytes:
        return hashlib.sha256(f"{context.seed}/{context.sampler.probe}/{context.problems[place].id}".encode()).digest()

    return sorted(places, key=number)


def affordable(context: ProbeContext, most_problems: int, conditions: int, once: int = 0) -> tuple[int, int]:
    """Return how many problems, and how many samples of each per condition, are expected to fit into what is left of the budget.

    Args:
        context: Of the probe.
        most_problems: More are never sampled.
        conditions: Each is sampled `SAMPLES` times per problem, at least `FEWEST_SAMPLES`.
        once: Further samples per problem, taken once.

    Returns:
        Problems and samples; no problems where the budget does not hold one.
    """
    limit = context.behavior.sampling.max_tokens
    taken = int(context.counts.num_sampled.sum())
    expected = min(limit, max(1.0, TOKEN_MARGIN * float(context.counts.num_tokens.sum()) / taken)) if taken else limit
    room = int(context.sampler.tokens_left / expected)
    problems = min(len(context.problems), most_problems, room // (conditions * FEWEST_SAMPLES + once))
    return problems, min(SAMPLES, (room // problems - once) // conditions) if problems > 0 else 0


def enough(context: ProbeContext, num_problems: int) -> bool:
    """Return whether a mean over this number of problems is informative."""
    return num_problems >= min(FEWEST_PROBLEMS, len(context.problems))


def compare_condition(
    context: ProbeContext,
    condition: str,
    stands_for: Sequence[int],
    sampled: Sequence[int],
    found: Sequence[list[Rollout]],
    share: float = 1.0,
) -> ConditionResult:
    """Count the samples of one condition and compare them with the baseline samples of the same problems."""
    places = np.array(sampled, dtype=np.int64)
    counts = np.array([context.count_outcomes(rollouts) for rollouts in found], dtype=np.int64).reshape(-1, 2)
    samples, correct = counts.T
    groups = [context.counts.groups[place] for place in places]
    return ConditionResult(
        condition=condition,
        stands_for=np.array(stands_for, dtype=np.int64),
        share=share,
        sampled=places,
        num_samples=samples,
        num_correct=correct,
        num_malformed=sum(r.truncated or r.grade.status in _MALFORMED for rollouts in found for r in rollouts),
        rate=mean_interval(rates(samples, correct), groups, level=context.thresholds.level),
        gain=paired_gain(context, places, samples, correct),
    )


def rates(num_samples: Counts, num_correct: Counts) -> npt.NDArray[np.float64]:
    """Return [P] success rates; NaN without samples."""
    return np.asarray(num_correct / np.where(num_samples > 0, num_samples, np.nan))


def paired_gain(context: ProbeContext, places: Counts, num_samples: Counts, num_correct: Counts) -> Interval:
    """Return the mean difference from the baseline success rate of the same problems.

    Where every problem was sampled equally often, baseline rates are plain ones. After adaptive sampling plain rates are biased, and the
    difference is read from two posteriors (arXiv 2510.05197).

    Args:
        context: Holds the baseline counts.
        places: [C] places of the problems in `MeasuredBehavior.problems`.
        num_samples: [C] samples under the condition.
        num_correct: [C] successes among them.
    """
    baseline_samples, baseline_correct = context.counts.num_samples[places], context.counts.num_correct[places]
    groups = [context.counts.groups[place] for place in places]
    level = context.thresholds.level
    if context.counts.sampled_equally:
        return paired_delta_interval(
            rates(baseline_samples, baseline_correct), rates(num_samples, num_correct), groups, level=level
        )
    before, after = (
        fit(context, places, *pair).mixture for pair in ((baseline_samples, baseline_correct), (num_samples, num_correct))
    )
    return posterior_changes(before, after, [1], groups=groups).intervals(level)[0]


def baseline_rate(context: ProbeContext) -> Interval:
    """Return the mean success rate of the samples that all conditions are compared with."""
    if context.counts.sampled_equally:
        plain = rates(context.counts.num_samples, context.counts.num_correct)
        return mean_interval(plain, context.counts.groups, level=context.thresholds.level)
    return context.posterior.mixture.pass_at_ks([1], level=context.thresholds.level)[0]


def mean_draws(context: ProbeContext, one: ConditionResult) -> npt.NDArray[np.float64]:
    """Return [D] posterior draws of the mean success rate under a condition over all problems that it exists for.

    Problems that were not sampled are informed by those that were: they widen the posterior.
    """
    samples, correct = np.zeros((2, len(context.problems)), dtype=np.int64)
    samples[one.sampled], correct[one.sampled] = one.num_samples, one.num_correct
    return fit(context, one.stands_for, samples[one.stands_for], correct[one.stands_for]).mean


def fit(context: ProbeContext, places: Counts, num_samples: Counts, num_correct: Counts) -> LabelPosterior:
    """Return what counts say about some of the problems.

    Args:
        context: Whose thresholds and groups apply.
        places: [E] places of the problems in `MeasuredBehavior.problems`.
        num_samples: [E]
        num_correct: [E]
    """
    groups = tuple(context.counts.groups[place] for place in places)
    return label_posterior(
        num_samples, num_correct, epsilon=context.behavior.measure.epsilon, thresholds=context.thresholds, groups=groups
    )


def per_problem(context: ProbeContext, conditions: Sequence[ConditionResult]) -> dict[str, dict[str, Any]]:
    """Return problem id → successes and samples under each condition that it was sampled under."""
    found: dict[str, dict[str, Any]] = {}
    for one in conditions:
        for place, samples, correct in zip(one.sampled, one.num_samples, one.num_correct, strict=True):
            counts = {"num_samples": int(samples), "num_correct": int(correct)}
            found.setdefault(context.problems[place].id, {})[one.condition] = counts
    return found
