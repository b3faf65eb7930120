"""Effort that is expected to decide an undecided condition: simulated, with the interval that the gate itself reads.

Further samples of the same problems are drawn at rates from the posterior; further problems, or groups of related ones, are drawn from those
that were measured, with replacement. The first amount after which four of five continuations are decided is named. No formula stands between the
question and the answer, so whatever widens an interval (few problems, rare failures, missing samples) is counted in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from posttrain.analysis.stats import IntArray, Interval, fit_mixture
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry
from posttrain.diagnose.comparison.pass_at_k_change import pass_at_k_changes
from posttrain.diagnose.gates.conditions import Condition
from posttrain.diagnose.gates.metrics import (
    MeasuredEntry,
    counts_of,
    estimate_greedy,
    estimate_run_metric,
    greedy_successes,
    groups_of,
    paired_counts,
)
from posttrain.diagnose.types import Outcome, decide

GROWTHS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Multiples of what there is that are tried."""
FUTURES, DECIDED = 20, 17
"""Continuations that are simulated for each, and those that must be decided: then at least four of five are, but for chance."""
MOST = 100_000
"""Problems, or samples of a problem, up to which is simulated."""
_AT_THRESHOLD = 1e-3
"""Distance of an estimate from the threshold up to which no effort is expected to decide."""
Simulate = Callable[[float, int], Interval]
"""From a growth and the number of a continuation to the interval there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settles:
    """Effort that is expected to decide a condition; None where more of it would not."""

    samples: int | None
    """Further samples in total, of the same problems."""
    tokens: int | None
    """Generated tokens of these samples."""
    problems: int | None
    """Alternatively the total number of problems, each sampled as often as now."""


def required_effort(measured: MeasuredEntry, condition: Condition, interval: Interval, level: float) -> Settles | None:
    """Return the effort after which four of five simulated continuations decide the condition.

    Args:
        measured: The behavior.
        condition: The undecided condition.
        interval: Of its metric.
        level: Confidence of the interval.

    Returns:
        None where the estimate lies at the threshold or is undefined, or where no effort that is tried decides.
    """
    entry = measured.entry
    if math.isnan(interval.estimate) or abs(interval.estimate - condition.threshold) < _AT_THRESHOLD:
        return None
    samples: int | None = None
    if isinstance(entry, BehaviorChangeEntry):
        growth = _least_growth(_more_problems_of_a_comparison(entry, condition, level), condition, len(entry.problems))
    elif condition.metric == "greedy":
        growth = _least_growth(_more_greedy_problems(measured, level), condition, len(entry.problems))
    else:
        growth = _least_growth(_more_problems(measured, condition, level), condition, len(entry.problems))
        n = counts_of(entry)[0]
        if (more := _least_growth(_more_samples(measured, condition, level), condition, int(n.max()))) is not None:
            samples = int(_further(n, more).sum())
    if samples is None and growth is None:
        return None
    per_sample = 0.0
    if not isinstance(entry, BehaviorChangeEntry) and entry.cost.samples:
        per_sample = entry.cost.generated_tokens / entry.cost.samples
    return Settles(
        samples=samples,
        tokens=math.ceil(samples * per_sample) if samples is not None and per_sample else None,
        problems=None if growth is None else math.ceil(len(entry.problems) * growth),
    )


def _least_growth(simulate: Simulate, condition: Condition, size: int) -> float | None:
    """Return the least growth, of something of this size, after which enough continuations are decided."""
    for growth in (one for one in GROWTHS if one * size <= MOST):
        undecided = 0
        for future in range(FUTURES):
            interval = simulate(growth, future)
            undecided += decide(condition.op, interval.low, interval.high, condition.threshold) is Outcome.INCONCLUSIVE
            if undecided > FUTURES - DECIDED:
                break
        else:
            return growth
    return None


def _more_samples(measured: MeasuredEntry, condition: Condition, level: float) -> Simulate:
    """Simulate further samples of the same problems."""
    assert not isinstance(measured.entry, BehaviorChangeEntry)
    n, correct, missing = counts_of(measured.entry)
    groups = groups_of(measured.entry)
    rates = fit_mixture(n, correct).draw_rates(rng=np.random.default_rng(0), num_draws=FUTURES)

    def simulate(growth: float, future: int) -> Interval:
        more = _further(n, growth)
        found = correct + np.random.default_rng([1, future]).binomial(more, rates[future])
        return estimate_run_metric(measured, condition, (n + more, found, missing), groups, level)

    return simulate


def _further(num_samples: IntArray, growth: float) -> IntArray:
    return np.ceil((growth - 1.0) * np.maximum(num_samples, 1)).astype(np.int64)


def _more_problems(measured: MeasuredEntry, condition: Condition, level: float) -> Simulate:
    """Simulate more problems, each sampled as often as now."""
    assert not isinstance(measured.entry, BehaviorChangeEntry)
    counts, draw = counts_of(measured.entry), _problem_draws(groups_of(measured.entry))

    def simulate(growth: float, future: int) -> Interval:
        rows, names = draw(growth, future)
        n, correct, missing = (column[rows] for column in counts)
        return estimate_run_metric(measured, condition, (n, correct, missing), names, level)

    return simulate


def _more_greedy_problems(measured: MeasuredEntry, level: float) -> Simulate:
    """Simulate more problems with a greedy sample each."""
    assert not isinstance(measured.entry, BehaviorChangeEntry)
    success, draw = greedy_successes(measured.path, measured.entry), _problem_draws(groups_of(measured.entry))

    def simulate(growth: float, future: int) -> Interval:
        rows, names = draw(growth, future)
        return estimate_greedy(success[rows], names, level)

    return simulate


def _more_problems_of_a_comparison(entry: BehaviorChangeEntry, condition: Condition, level: float) -> Simulate:
    """Simulate a comparison of more problems."""
    counts = paired_counts(entry)
    draw = _problem_draws(counts.groups)

    def simulate(growth: float, future: int) -> Interval:
        rows, names = draw(growth, future)
        drawn = replace(
            counts, ids=tuple(f"{row}" for row in range(len(rows))), groups=names, n_before=counts.n_before[rows],
            c_before=counts.c_before[rows], n_after=counts.n_after[rows], c_after=counts.c_after[rows],
            missing_before=counts.missing_before[rows], missing_after=counts.missing_after[rows],
        )  # fmt: skip
        return pass_at_k_changes(drawn, [condition.k], level=level)[0]

    return simulate


def _problem_draws(groups: tuple[str, ...]) -> Callable[[float, int], tuple[IntArray, tuple[str, ...]]]:
    """Return what draws whole groups with replacement until there are `growth` times as many.

    It takes the growth and the number of the continuation, and returns the rows of the problems drawn, and the new names of their groups.
    """
    index = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(index)
    rows_by_group, starts = np.argsort(index, kind="stable"), np.cumsum(sizes) - sizes

    def draw(growth: float, future: int) -> tuple[IntArray, tuple[str, ...]]:
        rng = np.random.default_rng([2, future])
        drawn = rng.integers(len(sizes), size=math.ceil(growth * len(sizes)))
        names = np.repeat(np.arange(drawn.size), sizes[drawn])
        within = np.arange(names.size) - np.repeat(np.cumsum(sizes[drawn]) - sizes[drawn], sizes[drawn])
        rows = rows_by_group[np.repeat(starts[drawn], sizes[drawn]) + within]
        return rows, tuple(map(str, names.tolist()))

    return draw
