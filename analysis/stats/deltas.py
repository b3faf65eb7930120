"""Changes of whole pass@k curves: simultaneous intervals over k, the crossing of two curves, and equivalence.

Bootstraps resample problems (or groups of related ones), never samples within problems, which undercovers (arXiv 2411.00640).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, check_level
from posttrain.analysis.stats.intervals import DELTA_PSEUDO_OBSERVATIONS, Interval, paired_delta_interval


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
    groups: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
    level: float = 0.95,
) -> CurveDeltas:
    """Estimate mean paired changes at many k with simultaneous intervals: a bootstrap over problems of the largest |t| across k.

    Neighboring k are strongly dependent, so intervals are much narrower than under Holm or Bonferroni. Standard errors include the
    same pseudo-observations as `paired_delta_interval`, and intervals are never narrower than that of a single k.

    Args:
        before: [P, K] values in [0, 1], such as pass@k, before.
        after: [P, K] the same after. A k that is NaN throughout is left out; then a problem with any NaN is.
        groups: [P] name of the group of each problem, or None.
        rng: Random generator.
        num_draws: Number of bootstrap samples.
        level: Probability that all intervals hold at once.

    Raises:
        ValueError: Shapes that differ, values outside [0, 1], or num_draws below 1.
    """
    check_level(level)
    delta = _paired(before, after)
    estimate, low, high = np.full((3, delta.shape[1]), np.nan)
    used, units = _units(delta, groups)
    if units.shape[0] == 0:
        return CurveDeltas(estimate, low, high)
    size = units.shape[0] + 2 * DELTA_PSEUDO_OBSERVATIONS

    def centre_and_error(total: FloatArray, squares: FloatArray) -> tuple[FloatArray, FloatArray]:
        centre = total / size
        spread = np.maximum(squares + 2 * DELTA_PSEUDO_OBSERVATIONS - size * centre**2, 0.0)
        return centre, np.sqrt(spread / (max(size - 1.0, 0.5) * size))

    centre, error = centre_and_error(units.sum(axis=0), (units**2).sum(axis=0))
    weights = _resample(units.shape[0], rng, num_draws)
    drawn, drawn_error = centre_and_error(weights @ units, weights @ units**2)
    largest = np.max(np.abs(drawn - centre) / drawn_error, axis=1)
    alone = float(scipy.stats.t.ppf(0.5 + level / 2, max(size - 1.0, 0.5)))
    critical = max(alone, float(np.quantile(largest, level)))
    estimate[used] = units.mean(axis=0)
    first, last = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    single = [paired_delta_interval(first[:, k], last[:, k], groups, level=level) for k in np.flatnonzero(used)]
    low[used] = np.maximum(-1.0, np.minimum(centre - critical * error, [interval.low for interval in single]))
    high[used] = np.minimum(1.0, np.maximum(centre + critical * error, [interval.high for interval in single]))
    return CurveDeltas(estimate, low, high)


@dataclass(frozen=True, slots=True)
class CurveCrossing:
    """Crossing where the pass@k curve after falls below the curve before."""

    k: Interval
    """The k of the crossing, interpolated in log k; NaN where the curves do not cross."""
    probability: float
    """Share of the bootstrap samples of problems in which they cross."""


def curve_crossing(
    k: npt.ArrayLike,
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
    level: float = 0.95,
) -> CurveCrossing:
    """Find the k beyond which the model before has the higher pass@k, although it is lower at smaller k.

    Args:
        k: [K] increasing attempts.
        before: [P, K] pass@k per problem before.
        after: [P, K] after; NaN as in `max_t_deltas`.
        groups: [P] name of the group of each problem, or None.
        rng: Random generator.
        num_draws: Number of bootstrap samples of problems.
        level: Share of the crossing bootstrap samples inside the interval.

    Raises:
        ValueError: Shapes that differ, values outside [0, 1], k that do not rise, or num_draws below 1.

    Source: crossing pass@k curves of base and RL models, arXiv 2504.13837.
    """
    check_level(level)
    delta = _paired(before, after)
    attempts = np.asarray(k, dtype=np.float64)
    if attempts.shape != delta.shape[1:] or np.any(attempts < 1) or np.any(np.diff(attempts) <= 0):
        raise ValueError(f"k must rise from at least 1 and match {delta.shape[1]} columns, got {attempts.tolist()}")
    method = "bootstrap over problems"
    used, units = _units(delta, groups)
    if units.shape[0] == 0:
        return CurveCrossing(Interval(np.nan, np.nan, np.nan, method), np.nan)
    log_k = np.log(attempts[used])
    estimate = _first_crossing(log_k, units.mean(axis=0)[None, :])[0]
    draws = _first_crossing(log_k, _resample(units.shape[0], rng, num_draws) @ units / units.shape[0])
    crossed = draws[~np.isnan(draws)]
    if crossed.size == 0 or np.isnan(estimate):
        return CurveCrossing(Interval(np.nan, np.nan, np.nan, method), crossed.size / num_draws)
    low, high = np.quantile(crossed, [(1 - level) / 2, (1 + level) / 2])
    interval = Interval(float(estimate), min(float(low), float(estimate)), max(float(high), float(estimate)), method)
    return CurveCrossing(interval, crossed.size / num_draws)


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


def equivalence_test(
    before: npt.ArrayLike, after: npt.ArrayLike, margin: float, groups: Sequence[str] | None = None, *, alpha: float = 0.05
) -> Equivalence:
    """Run two one-sided tests of a mean paired change against a margin, using the interval at level 1 − 2α.

    The absence of a significant change does not show that nothing was lost; equivalence does.

    Args:
        before: [P] values in [0, 1] before.
        after: [P] after; NaN on either side leaves the problem out.
        margin: The largest change that does not matter, in (0, 1).
        groups: [P] name of the group of each problem, or None.
        alpha: Probability of calling a change of `margin` equivalent, in (0, 0.5).

    Returns:
        The verdict, undecided without data.

    Raises:
        ValueError: Margin or alpha out of range, or bad values.
    """
    if not 0.0 < margin < 1.0 or not 0.0 < alpha < 0.5:
        raise ValueError(f"margin must lie in (0, 1) and alpha in (0, .5), got {margin} and {alpha}")
    interval = paired_delta_interval(before, after, groups, level=1.0 - 2.0 * alpha)
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


def _units(delta: FloatArray, groups: Sequence[str] | None) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Return the columns with data, and one row per sampling unit such that the mean of the rows is the mean over problems."""
    if groups is not None and len(groups) != delta.shape[0]:
        raise ValueError(f"{len(groups)} groups for {delta.shape[0]} problems")
    used = ~np.all(np.isnan(delta), axis=0)
    rows = ~np.any(np.isnan(delta[:, used]), axis=1) if np.any(used) else np.zeros(delta.shape[0], dtype=np.bool_)
    kept = delta[np.ix_(rows, used)]
    if groups is None or kept.shape[0] == 0:
        return used, kept
    _, index = np.unique(np.asarray(groups)[rows], return_inverse=True)
    member = np.zeros((int(index.max()) + 1, index.size))
    member[index, np.arange(index.size)] = 1.0
    # Residuals, so that clusters of unequal size have the variance of a ratio.
    mean = kept.mean(axis=0)
    return used, mean + member @ (kept - mean) * (member.shape[0] / index.size)


def _resample(num_units: int, rng: np.random.Generator, num_draws: int) -> FloatArray:
    """[D, U] how often each bootstrap sample contains each unit."""
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    return rng.multinomial(num_units, np.full(num_units, 1.0 / num_units), size=num_draws).astype(np.float64)


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
