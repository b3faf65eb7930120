"""Intervals for means over problems. Problems, not samples, are the sampling unit (arXiv 2411.00640).

Plain t intervals fail with few problems: for 24 problems that all scored 0 the width is zero, and for skewed rates they undercover.
`mean_interval` therefore adds pseudo-observations: a fraction of a problem at either end of the range. They keep the width above zero,
widen the interval by less than 6 % from 24 problems on where rates are spread, and lose influence as the number of problems grows.

Where failures (or changes) are rare, the observed spread is uninformative: ten problems that all passed may come from a distribution in
which one in four fails. `_score_distance` therefore computes, as Wilson does for a proportion, how far the mean could be if the spread
were the one *that* mean implies, and an interval never ends before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, IntArray, check_level

MEAN_PSEUDO_OBSERVATIONS = 0.5
"""Pseudo-observations (problems) at each end of the range in `mean_interval`."""
DELTA_PSEUDO_OBSERVATIONS = 0.25
"""The same in `paired_delta_interval`: its range is twice as wide, and nearly all deltas lie far from its ends."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval; NaN where undefined."""

    estimate: float
    low: float
    high: float
    method: str
    """How it was computed, in a few words."""


def mean_interval(
    values: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    low: float = 0.0,
    high: float = 1.0,
) -> Interval:
    """Compute an interval for the mean of a bounded value over the population that the problems are drawn from.

    A t interval over problems (or groups of related problems) with half a pseudo-observation at `low` and half at `high`, at least as
    wide as a score interval (`_score_distance`). The estimate is the plain mean. Measured for this project (pass@1 of 16 samples,
    p ~ Beta(0.3, 1.2)): it covers in 0.99, 0.99, 0.96, 0.96 and 0.95 of cases with 5, 10, 24, 50 and 200 problems, the plain t interval
    in 0.84, 0.90, 0.93, 0.94 and 0.95.

    Args:
        values: [P] one value per problem, such as pass@k; NaN is left out.
        groups: [P] name of the group of each problem, or None where problems are unrelated.
        level: Confidence.
        low: Smallest possible value.
        high: Largest possible value.

    Returns:
        Estimate and interval, clipped to [low, high], never of zero width; all NaN without data.

    Raises:
        ValueError: Values outside [low, high], shapes that differ, or a level outside (0, 1).

    Source: clustered errors over questions, arXiv 2411.00640.
    """
    return _bounded_mean(values, groups, None, level=level, low=low, high=high, pseudo=MEAN_PSEUDO_OBSERVATIONS, rest=(low, high))


def paired_delta_interval(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Compute an interval for the mean change of a value in [0, 1], paired by problem.

    As `mean_interval`, on the differences, with a quarter of a pseudo-observation at −1 and at +1. Measured for this project (16 samples
    each, p ~ Beta(0.3, 1.2), 5 % of problems raised to 0.8): it covers in 0.99, 0.96 and 0.96 of cases with 24, 50 and 200 problems, the
    plain t interval in 0.90, 0.91 and 0.95. Where nothing changes it covers in 1.0, 1.0 and 0.97: at 24 problems it is 1.7 times as wide
    as the plain one.

    Args:
        before: [P] value of each problem before.
        after: [P] value of the same problems after, in the same order. A problem with NaN on either side is left out.
        groups: [P] name of the group of each problem, or None.
        weights: [P] weight of each problem, above 0; equal where None.
        level: Confidence.

    Returns:
        Estimate and interval of mean(after − before), clipped to [−1, 1], never of zero width.

    Raises:
        ValueError: Values outside [0, 1], shapes that differ, weights that are not above 0, or a level outside (0, 1).
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"before has shape {first.shape} and after {second.shape}; they are paired by problem")
    for name, array in (("before", first), ("after", second)):
        if np.any((array < 0.0) | (array > 1.0)):
            raise ValueError(f"{name} must lie in [0, 1]")
    return _bounded_mean(
        second - first, groups, weights, level=level, low=-1.0, high=1.0, pseudo=DELTA_PSEUDO_OBSERVATIONS, rest=(0.0, 0.0)
    )


def t_interval(
    values: npt.ArrayLike, groups: Sequence[str] | None = None, *, level: float = 0.95, method: str = "t interval over problems"
) -> Interval:
    """Compute Student's t interval for the mean of an unbounded value, over problems or over groups of related ones.

    Args:
        values: [P] one value per problem; NaN is left out.
        groups: [P] name of the group of each problem, or None where problems are unrelated.
        level: Confidence.
        method: Method named in the result.

    Returns:
        The plain mean; its bounds are NaN where there are fewer than two groups.

    Source: clustered errors over questions, arXiv 2411.00640.
    """
    check_level(level)
    array = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(array)
    if not known.any():
        return Interval(np.nan, np.nan, np.nan, method)
    array = array[known]
    mean = float(array.mean())
    sums: FloatArray = array - mean
    if groups is not None:
        member = np.unique(np.asarray(groups)[known], return_inverse=True)[1]
        sums = np.bincount(member, weights=sums).astype(np.float64)
    if sums.size < 2:
        return Interval(mean, np.nan, np.nan, method)
    error = float(np.sqrt((sums**2).sum() * sums.size / (sums.size - 1))) / array.size
    half = error * float(scipy.special.stdtrit(sums.size - 1, 0.5 + level / 2))
    return Interval(mean, mean - half, mean + half, method)


def wilson_interval(num_correct: int, num_samples: int, *, level: float = 0.95) -> Interval:
    """Compute Wilson's score interval for one proportion of independent draws.

    Args:
        num_correct: Successes.
        num_samples: Draws.
        level: Confidence.

    Returns:
        The plain proportion and its interval; NaN without draws.

    Raises:
        ValueError: Counts or level out of range.
    """
    _check_proportion(num_correct, num_samples, level)
    if num_samples == 0:
        return Interval(np.nan, np.nan, np.nan, "Wilson")
    z = float(scipy.special.ndtri(0.5 + level / 2))
    share = num_correct / num_samples
    scale = 1.0 + z * z / num_samples
    centre = (share + z * z / (2 * num_samples)) / scale
    half = z / scale * float(np.sqrt(share * (1 - share) / num_samples + z * z / (4 * num_samples**2)))
    low = 0.0 if num_correct == 0 else max(0.0, centre - half)
    high = 1.0 if num_correct == num_samples else min(1.0, centre + half)
    return Interval(share, low, high, "Wilson")


def _check_proportion(num_correct: int, num_samples: int, level: float) -> None:
    check_level(level)
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"expected 0 <= num_correct <= num_samples, got {num_correct} of {num_samples}")


def _bounded_mean(
    values: npt.ArrayLike,
    groups: Sequence[str] | None,
    weights: npt.ArrayLike | None,
    *,
    level: float,
    low: float,
    high: float,
    pseudo: float,
    rest: tuple[float, float],
) -> Interval:
    """Compute the interval; `rest` is the value of problems without a rare event, below and above: the range ends, or zero for changes."""
    check_level(level)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one value per problem, got shape {array.shape}")
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    if groups is not None and len(groups) != array.size:
        raise ValueError(f"{len(groups)} groups for {array.size} problems")
    weight = np.ones(array.size) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != array.shape or not np.all(weight > 0.0):
        raise ValueError(f"expected a weight above 0 for each of {array.size} problems")
    kept = ~np.isnan(array)
    slack = 1e-9 * (high - low)
    if np.any((array[kept] < low - slack) | (array[kept] > high + slack)):
        raise ValueError(f"values must lie in [{low}, {high}]")
    array, weight = array[kept], weight[kept]
    unit = "problems" if groups is None else "groups"
    method = f"t interval over {unit}, {2 * pseudo:g} pseudo-observation{'' if pseudo == 0.5 else 's'}"
    if array.size == 0:
        return Interval(np.nan, np.nan, np.nan, method)
    means, sizes = (array, weight) if groups is None else _group_means(array, weight, np.asarray(groups)[kept])
    # The mean weights groups by size, so its variance is that of a ratio; a pseudo-observation has the average size. Where problems
    # have weights, it has the weighted average size, so that many problems of negligible weight do not shrink it.
    sizes = sizes / (sizes.mean() if weights is None else (sizes**2).sum() / sizes.sum())
    total = sizes.sum() + 2 * pseudo
    centre = ((sizes * means).sum() + pseudo * (low + high)) / total
    squares = (sizes**2 * (means - centre) ** 2).sum() + pseudo * ((low - centre) ** 2 + (high - centre) ** 2)
    effective = total**2 / ((sizes**2).sum() + 2 * pseudo)
    # A single group leaves less than one degree of freedom; 0.5 makes the interval as wide as the range.
    freedom = max(effective - 1.0, 0.5)
    half = float(scipy.special.stdtrit(freedom, 0.5 + level / 2)) * float(np.sqrt(squares * effective / freedom)) / total
    estimate = float(np.clip(np.average(array, weights=weight), low, high))
    share = sizes / sizes.sum()
    z = float(scipy.special.ndtri(0.5 + level / 2))
    floor, ceiling = rest
    below = estimate - (ceiling - low) * _score_distance((ceiling - means) / (ceiling - low), share, z)
    above = estimate + (high - floor) * _score_distance((means - floor) / (high - floor), share, z)
    return Interval(estimate, max(low, min(centre - half, below)), min(high, max(centre + half, above)), method)


def _score_distance(values: FloatArray, share: FloatArray, z: float) -> float:
    """Return how far above the mean of `values` the population mean could be, if the spread is the one that mean implies.

    A rare event of size 1 and probability μ has the variance μ − μ²; one of smaller size has λμ − μ², where λ = E[v²] / E[|v|] is its size.
    Solved for the greater e is e² = (z²/n)·(λ(μ⁺ + e) − (μ + e)²), with μ⁺ the part of the mean above zero. Half an event of size 1
    is added as a pseudo-observation.

    Args:
        values: [P] of at most 1; of either sign where they are changes.
        share: [P] weight of each, summing to one.
        z: Standard errors.

    Source: Wilson (1927), for proportions; λ makes it one for rates.
    """
    number = 1.0 / float(share @ share)
    mean, pseudo = float(share @ values), 0.5 / number
    size = (float(share @ values**2) + pseudo) / (float(share @ np.abs(values)) + pseudo)
    c = z * z / number
    linear, constant = c * (2 * mean - size), c * (mean * mean - size * max(mean, 0.0))
    root = np.sqrt(max(0.0, linear * linear - 4 * (1.0 + c) * constant))
    return max(0.0, float(root - linear) / (2 * (1.0 + c)))


def jeffreys_intervals(num_samples: IntArray, num_correct: IntArray, *, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Compute Jeffreys' interval of every single problem's success rate, from its own samples alone.

    Intervals from the posterior of all problems are narrower and cover too seldom where problems are few.

    Args:
        num_samples: [P]
        num_correct: [P]
        level: Confidence.

    Returns:
        [P] low and [P] high; 0 and 1 where no sample contradicts them.

    Source: Brown, Cai and DasGupta, Statistical Science 16 (2001).
    """
    check_level(level)
    tail = (1.0 - level) / 2.0
    right, wrong = num_correct + 0.5, num_samples - num_correct + 0.5
    low, high = scipy.special.betaincinv(right, wrong, tail), scipy.special.betaincinv(right, wrong, 1.0 - tail)
    return np.where(num_correct == 0, 0.0, low), np.where(num_correct == num_samples, 1.0, high)


def design_effect(values: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """Compute the design effect: the factor by which the variance of a mean grows because problems of a group are related; at least 1.

    Args:
        values: [P] one value per problem.
        groups: [P] group of each problem.

    Returns:
        Variance over groups divided by variance over problems as if they were unrelated.

    Source: clustered errors over questions, arXiv 2411.00640.
    """
    array = np.asarray(values, dtype=np.float64)
    plain = array.var()
    if array.size < 2 or plain == 0.0:
        return 1.0
    means, sizes = _group_means(array, np.ones_like(array), np.asarray(groups))
    clustered = ((sizes * (means - array.mean())) ** 2).sum() / array.size
    return max(1.0, float(clustered / plain))


def _group_means(values: FloatArray, weights: FloatArray, groups: npt.NDArray[np.generic]) -> tuple[FloatArray, FloatArray]:
    """Return the weighted mean and the total weight of each group."""
    _, index = np.unique(groups, return_inverse=True)
    sizes = np.bincount(index, weights=weights).astype(np.float64)
    return np.bincount(index, weights=weights * values) / sizes, sizes
