"""Changes of whole pass@k curves: simultaneous intervals over k, where two curves cross, and equivalence.

Problems (or groups of related ones) are the sampling unit, never samples within problems, which undercovers (arXiv 2411.00640). The mean
changes at all k are normal with the covariance of the problems' changes; draws are taken from that, whatever the number of problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, check_level
from posttrain.analysis.stats.intervals import DELTA_PSEUDO_OBSERVATIONS, Interval, paired_delta_interval

NUM_DRAWS = 20_000
"""Draws of a curve of mean changes: the .95 quantile of the largest |t| is then within 1 %."""
PROBABLE = 0.95
"""Probability of a crossing from which on its place is given as an interval."""


@dataclass(frozen=True, slots=True)
class CurveDeltas:
    """Changes at every k with simultaneous intervals. NaN where a k has no data."""

    estimate: FloatArray
    """[K]"""
    low: FloatArray
    """[K]"""
    high: FloatArray
    """[K]"""


def max_t_deltas(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
) -> CurveDeltas:
    """Estimate mean paired changes at many k with simultaneous intervals, from the largest |t| of a multivariate t distribution.

    Neighboring k are strongly dependent, so intervals are much narrower than under Holm or Bonferroni. Standard errors include the
    same pseudo-observations as `paired_delta_interval`, and intervals are never narrower than that of a single k.

    Args:
        before: [P, K] values in [0, 1], such as pass@k, before.
        after: [P, K] the same after. A k that is NaN throughout is left out; then a problem with any NaN is.
        groups: [P] name of the group of each problem, or None.
        rng: Random generator.
        level: Probability that all intervals hold at once.

    Raises:
        ValueError: Shapes that differ, values outside [0, 1], or a level outside (0, 1).
    """
    check_level(level)
    delta = _paired(before, after)
    estimate, low, high = np.full((3, delta.shape[1]), np.nan)
    used, units = paired_units(delta, groups)
    if units.shape[0] == 0:
        return CurveDeltas(estimate, low, high)
    centre, covariance, degrees = mean_moments(units)
    error = np.sqrt(np.diag(covariance))
    critical = _largest_t(covariance, degrees, rng, level)
    estimate[used] = units.mean(axis=0)
    first, last = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    single = [paired_delta_interval(first[:, k], last[:, k], groups, level=level) for k in np.flatnonzero(used)]
    low[used] = np.maximum(-1.0, np.minimum(centre - critical * error, [interval.low for interval in single]))
    high[used] = np.minimum(1.0, np.maximum(centre + critical * error, [interval.high for interval in single]))
    return CurveDeltas(estimate, low, high)


def simultaneous_level(
    values: npt.ArrayLike, groups: Sequence[Any] | None = None, *, rng: np.random.Generator, level: float = 0.95
) -> float:
    """Compute the level of single intervals for several means over the same problems at which all of them hold at once.

    From the largest |t| of a multivariate t distribution, as in `max_t_deltas`, so that dependent means pay little.

    Args:
        values: [P, K] values of each problem in [−1, 1]. A column that is NaN throughout is left out; then a problem with any NaN is.
        groups: [P] name of the group of each problem, or None.
        rng: Random generator.
        level: Probability that all K intervals hold at once.

    Returns:
        A level of at least `level`; `level` itself without data.

    Raises:
        ValueError: A level outside (0, 1).
    """
    check_level(level)
    _, units = paired_units(np.asarray(values, dtype=np.float64), groups)
    if units.shape[0] == 0:
        return level
    _, covariance, degrees = mean_moments(units)
    return max(level, float(2.0 * scipy.stats.t.cdf(_largest_t(covariance, degrees, rng, level), degrees) - 1.0))


@dataclass(frozen=True, slots=True)
class FirstLoss:
    """Confidence set for the first k at which the curve after is lower: `low` to `high`."""

    low: int | None
    """None where the curve after is higher at every k."""
    high: int | None
    """None where the curve after need not be lower at any k: the set then holds "none" too."""
    largest_k: int
    """No k above it was examined."""


def first_loss(ks: Sequence[int], low: npt.ArrayLike, high: npt.ArrayLike) -> FirstLoss:
    """Return a confidence set for the first k at which the curve after lies below the one before, from a simultaneous band.

    Where the band covers the true curve at all k at once, the first loss cannot come before the first k at which the band reaches below
    zero, nor after the first at which all of it is below. So the set covers as often as the band, also where the curves never cross.

    Args:
        ks: [K] increasing attempts, from 1 on; what lies between two of them is not excluded.
        low: [K] lower ends of simultaneous intervals for the change at these k.
        high: [K] upper ends.

    Raises:
        ValueError: Lengths that differ, no k, or k that do not rise.

    Source: arXiv 2609.22547.
    """
    below, above = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if not ks or not len(ks) == below.size == above.size or np.any(np.diff(ks) <= 0):
        raise ValueError(f"ks must rise and match {below.size} and {above.size} ends of intervals, got {list(ks)}")
    possible, sure = np.flatnonzero(below < 0), np.flatnonzero(above < 0)
    start = int(possible[0]) if possible.size else 0
    return FirstLoss(
        low=(ks[start - 1] + 1 if start else ks[0]) if possible.size else None,
        high=ks[int(sure[0])] if sure.size else None,
        largest_k=ks[-1],
    )


def dense_ks(most: int) -> list[int]:
    """List the k at which a first loss is looked for: every one up to 64, then in steps of 5 %."""
    ks = list(range(1, min(most, 64) + 1))
    while ks and ks[-1] < most:
        ks.append(min(most, ks[-1] + max(1, ks[-1] // 20)))
    return ks


@dataclass(frozen=True, slots=True)
class CurveCrossing:
    """Crossing where the pass@k curve after falls below the curve before."""

    k: Interval
    """The k of the crossing, interpolated in log k; NaN where a crossing is not probable."""
    probability: float
    """Probability that they cross, over the problems that there might have been."""


def curve_crossing(
    k: npt.ArrayLike,
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
) -> CurveCrossing:
    """Find the k beyond which the model before has the higher pass@k, although it is lower at smaller k.

    The interval holds given that the curves cross, so it is given only where that is at least `PROBABLE`; `first_loss` needs no such
    condition.

    Args:
        k: [K] increasing attempts.
        before: [P, K] pass@k per problem before.
        after: [P, K] after; NaN as in `max_t_deltas`.
        groups: [P] name of the group of each problem, or None.
        rng: Random generator.
        level: Share of the crossing draws inside the interval.

    Raises:
        ValueError: Shapes that differ, values outside [0, 1], or k that do not rise.

    Source: crossing pass@k curves of base and RL models, arXiv 2504.13837.
    """
    check_level(level)
    delta = _paired(before, after)
    attempts = np.asarray(k, dtype=np.float64)
    if attempts.shape != delta.shape[1:] or np.any(attempts < 1) or np.any(np.diff(attempts) <= 0):
        raise ValueError(f"k must rise from at least 1 and match {delta.shape[1]} columns, got {attempts.tolist()}")
    method = "normal draws over problems"
    nothing = Interval(np.nan, np.nan, np.nan, method)
    used, units = paired_units(delta, groups)
    if units.shape[0] < 2:
        return CurveCrossing(nothing, np.nan)
    log_k, mean = np.log(attempts[used]), units.mean(axis=0)
    covariance = np.atleast_2d(np.cov(units, rowvar=False)) / units.shape[0]
    draws = _first_crossing(log_k, mean + normal_draws(covariance, rng))
    crossed = draws[~np.isnan(draws)]
    estimate, probability = float(_first_crossing(log_k, mean[None, :])[0]), crossed.size / draws.size
    if probability < PROBABLE or np.isnan(estimate):
        return CurveCrossing(nothing, probability)
    low, high = np.quantile(crossed, [(1 - level) / 2, (1 + level) / 2])
    return CurveCrossing(Interval(estimate, min(float(low), estimate), max(float(high), estimate), method), probability)


class EquivalenceVerdict(StrEnum):
    """Outcome of an equivalence test."""

    EQUIVALENT = "equivalent"
    DIFFERENT = "different"
    """Larger than the margin."""
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Result of an equivalence test."""

    verdict: EquivalenceVerdict
    interval: Interval
    """Interval of the mean change, at level 1 − 2α."""
    margin: float


def equivalence_test(interval: Interval, margin: float) -> Equivalence:
    """Run two one-sided tests of a mean paired change against a margin, by its interval at level 1 − 2α.

    The absence of a significant change does not show that nothing was lost; equivalence does.

    Args:
        interval: Of the change: at level .9 a change of `margin` is called equivalent in at most 5 % of cases.
        margin: The largest change that does not matter, in (0, 1).

    Returns:
        The verdict, undecided without data.

    Raises:
        ValueError: Margin out of range.
    """
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin must lie in (0, 1), got {margin}")
    if -margin < interval.low and interval.high < margin:
        verdict = EquivalenceVerdict.EQUIVALENT
    elif interval.low > margin or interval.high < -margin:
        verdict = EquivalenceVerdict.DIFFERENT
    else:
        verdict = EquivalenceVerdict.UNDECIDED
    return Equivalence(verdict, interval, margin)


def _paired(before: npt.ArrayLike, after: npt.ArrayLike) -> FloatArray:
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"expected two arrays [problems, k] of one shape, got {first.shape} and {second.shape}")
    for array in (first, second):
        if np.any((array < 0.0) | (array > 1.0)):
            raise ValueError("values must lie in [0, 1]")
    return second - first


def paired_units(delta: FloatArray, groups: Sequence[Any] | None) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Return the columns with data, and one row per sampling unit such that the mean of the rows is the mean over problems."""
    if groups is not None and len(groups) != delta.shape[0]:
        raise ValueError(f"{len(groups)} groups for {delta.shape[0]} problems")
    used = ~np.all(np.isnan(delta), axis=0)
    rows = ~np.any(np.isnan(delta[:, used]), axis=1) if np.any(used) else np.zeros(delta.shape[0], dtype=np.bool_)
    kept = delta[np.ix_(rows, used)]
    if groups is None or kept.shape[0] == 0:
        return used, kept
    _, index = np.unique(np.asarray(groups)[rows], return_inverse=True)
    # Residuals, so that clusters of unequal size have the variance of a ratio.
    mean = kept.mean(axis=0)
    sums = np.stack([np.bincount(index.reshape(-1), weights=column) for column in (kept - mean).T], axis=1)
    return used, mean + sums * (len(sums) / kept.shape[0])


def mean_moments(units: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Return the centre [K] of the means of rows [U, K], their covariance [K, K] and its degrees of freedom.

    A quarter of a pseudo-observation at −1 and at +1 in every column keeps each variance above zero.
    """
    size = units.shape[0] + 2 * DELTA_PSEUDO_OBSERVATIONS
    degrees = max(size - 1.0, 0.5)
    centre = units.sum(axis=0) / size
    covariance = (units.T @ units + 2 * DELTA_PSEUDO_OBSERVATIONS - size * np.outer(centre, centre)) / (degrees * size)
    return centre, covariance, degrees


def _largest_t(covariance: FloatArray, degrees: float, rng: np.random.Generator, level: float) -> float:
    """Return the quantile of the largest |t| of means with this covariance, never below that of a single one."""
    error = np.sqrt(np.diag(covariance))
    spread = normal_draws(covariance / np.outer(error, error), rng)
    largest = np.abs(spread).max(axis=1) / np.sqrt(rng.chisquare(degrees, NUM_DRAWS) / degrees)
    return max(float(scipy.special.stdtrit(degrees, 0.5 + level / 2)), float(np.quantile(largest, level)))


def normal_draws(covariance: FloatArray, rng: np.random.Generator) -> FloatArray:
    """[NUM_DRAWS, K] normal draws with mean 0; the covariance may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(rng.standard_normal((NUM_DRAWS, len(values))) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T)


def _first_crossing(log_k: FloatArray, curves: FloatArray) -> FloatArray:
    """Return the k at which each row of [D, K] first falls from above zero to below it; zeros in between belong to the fall."""
    result = np.full(curves.shape[0], np.nan)
    above = np.full(curves.shape[0], -1)
    for column in range(curves.shape[1]):
        value = curves[:, column]
        rows = (value < 0) & (above >= 0) & np.isnan(result)
        if np.any(rows):
            start = above[rows]
            top = curves[rows, start]
            share = top / (top - value[rows])
            result[rows] = np.exp(log_k[start] + share * (log_k[column] - log_k[start]))
        above[value > 0] = column
    return result
