"""Profile-likelihood intervals for population means that hold for any mixing distribution of success rates.

For a functional θ(G) = Σ g_k h_k of the mixing distribution G (mean pass@k, the share of problems below a rate), the interval is the set
of values attained by some distribution whose log-likelihood is within ½ t² of the maximum: a profile likelihood over *all* distributions
on the grid. It needs no unbiased estimate, so sample counts may differ between problems and may come from adaptive sampling. It also
reaches beyond k = n, where it becomes bounds: what the samples cannot tell stays inside the interval.

**Computation.** Among the distributions of a given likelihood, the one with the largest θ maximizes Σ log-likelihood + τ log θ for some
τ: as if τ more problems with likelihood h had been observed. `Frontier.ends` finds τ by bisection, upwards with h and downwards with 1 − h,
each time by accelerated EM with one pseudo-observation added. `paired_profile` does the same for pairs of rates.

**Identification.** The same ends, at a hundredth of the allowed drop, show how wide the interval would be with a hundred times as many
problems sampled as often. Where that is wide, more problems would not help and the quantity is called not identified; so it is where the
interval is wider than the number of problems explains (`FEW_PROBLEMS`).

**Groups.** Where problems are related, the likelihood is tempered by the design effect. That alone covers too seldom with few groups, so
the interval also holds that of the jackknife over groups: each group's pseudo-value, as one observation of a `mean_interval`.

Source: confidence sets for functionals of a mixing distribution as in arXiv 1902.02774, here by profile likelihood; extrapolation of
pass@k by likelihood, arXiv 2510.05197.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, IntArray
from posttrain.analysis.stats.intervals import Interval, design_effect, mean_interval

MixingWeights = npt.NDArray[np.float32]
"""[R, K] R mixing distributions over K grid points; rows sum to one."""
LEAST_TILT, MOST_TILT = 0.1, 100.0
"""τ at which a functional is as at the maximum of the likelihood, and, per problem, at which it is within a hundredth of its largest value."""
BISECTIONS = 6
"""τ is then known to a fifth. Between its two last values the ends are interpolated, which leaves less than 0.005."""
RESOLUTION = 1e-6
"""Values this near to the largest one count as it: weights are in single precision."""
SQUAREM_STEPS, FURTHER_STEPS = 60, 20
"""Accelerated steps of EM, each worth about ten plain ones, from equal weights and from weights near the maximum; the log-likelihood is then
within 0.1 of its maximum."""
MIN_WEIGHT = np.float32(1e-12)
"""Floor of every weight: numbers near the end of the float range only slow the arithmetic down."""
MAX_STEP_LENGTH = 32.0
MANY_MORE = 100.0
IDENTIFIED_WIDTH = 0.1
"""Widest interval, at `MANY_MORE` times as many problems, of a quantity that counts as identified."""
FEW_PROBLEMS = 3.0
"""A quantity whose interval is wider than this over the root of the number of problems is not identified either: if every problem were a
coin with a known outcome, the width would be 1.96 over that root; half again as much is not due to the number of problems."""
SHARP_WIDTH = 0.02
"""Width, at `MANY_MORE` times as many problems, up to which the maximum-likelihood estimate is reported; beyond it, the midpoint."""
MIN_LOG_LIKELIHOOD = -60.0
"""Log-likelihoods further below the largest are raised to this: smaller numbers only slow the arithmetic down."""
FINE_FROM = 1000
"""Problems from which the grid of rates becomes finer."""
MOST_JACKKNIFED = 50
"""Groups from which the design effect alone is enough."""


def population_intervals(
    pairs: IntArray,
    place: IntArray,
    functionals: Callable[[FloatArray], FloatArray],
    *,
    level: float = 0.95,
    groups: IntArray | None = None,
) -> list[Interval]:
    """Compute the interval of each functional of the distribution of success rates in the population of problems.

    Args:
        pairs: [U, 2] distinct counts (samples, successes).
        place: [P] index of each problem's count in `pairs`; every problem has at least one sample.
        functionals: Takes rates [K] and returns F values in [0, 1] at each, [F, K].
        level: Confidence.
        groups: [P] index of the group of each problem, or None where problems are unrelated.

    Returns:
        F intervals; an estimate is NaN where the samples do not identify it.
    """
    rates = rate_grid(int(pairs[:, 0].max(initial=0)), place.size)
    values, likelihood = functionals(rates), likelihood_table(pairs[:, 0], pairs[:, 1], rates)
    repeats = np.bincount(place, minlength=len(pairs))
    if groups is None or not place.size:
        return profile_intervals(likelihood, repeats, values, level=level, degrees=place.size - 1)
    group = np.unique(groups, return_inverse=True)[1].reshape(-1)
    num_groups = int(group.max()) + 1
    effect = design_effect(pairs[place, 1] / pairs[place, 0], groups)
    found = profile_intervals(likelihood, repeats / effect, values, level=level, degrees=num_groups - 1)
    if num_groups > MOST_JACKKNIFED:
        return found
    table = np.zeros((num_groups, len(pairs)))
    np.add.at(table, (group, place), 1.0)
    return [_widen(one, other) for one, other in zip(found, _jackknife(likelihood, table, values, level), strict=True)]


def _widen(one: Interval, other: Interval) -> Interval:
    """Return an interval that holds both."""
    low, high = min(one.low, other.low), max(one.high, other.high)
    return Interval(one.estimate, low, high, f"{one.method}, at least as wide as the jackknife over groups")


def _jackknife(likelihood: FloatArray, table: FloatArray, values: FloatArray, level: float) -> list[Interval]:
    """Compute a t interval of each functional over the pseudo-values of the groups.

    Args:
        likelihood: [U, K]
        table: [G, U] problems of each group with each distinct count.
        values: [F, K]
        level: Confidence.
    """
    whole = table.sum(axis=0)
    rows = np.stack([whole, *(whole - group for group in table)]) if len(table) > 1 else whole[None, :]
    fitted = maximize_likelihood(likelihood, rows) @ values.T
    number = len(table)
    pseudo = number * fitted[0] - (number - 1) * fitted[1:] if number > 1 else fitted
    return [mean_interval(np.clip(column, 0.0, 1.0), level=level) for column in pseudo.T]


def rate_grid(most_samples: int, num_problems: int = 1) -> FloatArray:
    """Return rates [K] from 0 to 1 that lie closer together than the samples can resolve.

    Between 2/n and 1 − 2/n neighbors are evenly spaced in arcsin √p, .6 standard errors of n samples apart but no less than .02; beyond
    `FINE_FROM` problems the distance shrinks with their fourth root, so that what it costs in likelihood does not grow with their number.
    Outside, neighbors differ by a factor of e^(1/3) in the odds, from 1e−5 on.

    Args:
        most_samples: The largest number n of samples of one problem.
        num_problems: Problems.
    """
    n = max(4, most_samples)
    edge, step = 2.0 / n, max(0.02, 0.3 / np.sqrt(n)) * min(1.0, FINE_FROM / max(1, num_problems)) ** 0.25
    middle = np.sin(np.arange(np.arcsin(np.sqrt(edge)), np.arcsin(np.sqrt(1.0 - edge)) + step / 2, step)) ** 2
    tail = scipy.special.expit(np.arange(scipy.special.logit(1e-5), scipy.special.logit(edge) - 0.1, 1.0 / 3.0))
    return np.concatenate([[0.0], np.unique(np.concatenate([tail, middle, 1.0 - tail])), [1.0]])


def likelihood_table(num_samples: IntArray, num_correct: IntArray, rates: FloatArray) -> FloatArray:
    """Compute the likelihood of c successes in n samples at each rate, scaled so that the largest entry of each row is one.

    Args:
        num_samples: [U]
        num_correct: [U]
        rates: [K]

    Returns:
        [U, K] p^c (1−p)^(n−c) up to a factor per row. Binomial coefficients and the order of outcomes cancel, and so does any rule
        that chose n from earlier outcomes (adaptive sampling).
    """
    right, wrong = num_correct[:, None].astype(np.float64), (num_samples - num_correct)[:, None].astype(np.float64)
    table = scipy.special.xlogy(right, rates) + scipy.special.xlog1py(wrong, -rates)
    return np.asarray(np.exp(np.maximum(table - table.max(axis=1, keepdims=True), MIN_LOG_LIKELIHOOD)))


def profile_intervals(
    likelihood: FloatArray,
    repeats: npt.NDArray[np.number],
    functionals: FloatArray,
    *,
    level: float = 0.95,
    degrees: float,
) -> list[Interval]:
    """Compute the interval of each functional.

    Args:
        likelihood: [U, K] likelihood of each distinct count at each rate.
        repeats: [U] number of problems with that count, divided by the design effect where problems are related.
        functionals: [F, K] values in [0, 1] at each rate.
        level: Confidence.
        degrees: Degrees of freedom of the t quantile: problems (or groups) minus one.
    """
    if not repeats.sum():
        return [Interval(np.nan, 0.0, 1.0, "no samples") for _ in functionals]
    frontier, allowed = Frontier(likelihood, repeats, functionals), profile_drop(level, degrees)
    lows, highs = frontier.ends(allowed, allowed / MANY_MORE)
    rows = np.stack([functionals @ frontier.best, *lows, *highs], axis=1)
    few = FEW_PROBLEMS / float(np.sqrt(max(1.0, degrees + 1.0)))
    found = []
    for estimate, low, near_low, high, near_high in rows.tolist():
        identified = near_high - near_low <= IDENTIFIED_WIDTH and high - low <= max(2.0 * IDENTIFIED_WIDTH, few)
        # On a flat stretch of the likelihood the maximum depends on rounding; the midpoint does not.
        reported = estimate if near_high - near_low <= SHARP_WIDTH else (near_low + near_high) / 2
        method = "profile likelihood" if identified else "not identified: profile-likelihood bounds"
        found.append(Interval(reported if identified else np.nan, low, high, method))
    return found


def profile_drop(level: float, degrees: float) -> float:
    """Return how far below its maximum the log-likelihood may lie inside an interval: ½ t²."""
    return 0.5 * float(scipy.special.stdtrit(max(1.0, degrees), 0.5 + level / 2)) ** 2


class Frontier:
    """The distributions with the smallest and with the largest value of each functional, of all with a given likelihood.

    Args:
        likelihood: [U, K] likelihood of each distinct count at each rate, or pair of rates.
        repeats: [U] number of problems with that count.
        functionals: [F, K] values in [0, 1].
    """

    def __init__(self, likelihood: FloatArray, repeats: npt.NDArray[np.number], functionals: FloatArray) -> None:
        self._likelihood, self._repeats = likelihood, repeats
        self.best = maximize_likelihood(likelihood, repeats[None, :])[0]
        """[K] the maximum-likelihood distribution."""
        self._heights = np.concatenate([functionals, 1.0 - functionals])
        self._start, self._tops = self._heights @ self.best, self._heights.max(axis=1)
        self._largest = self._log_likelihood(self.best)
        at_top = self._heights > self._tops[:, None] - RESOLUTION
        masks, place = np.unique(at_top, axis=0, return_inverse=True)
        within = [maximize_likelihood(likelihood[:, mask], repeats[None, :], start=self.best[None, mask])[0] for mask in masks]
        attained = [np.log(likelihood[:, mask] @ weights) @ repeats for mask, weights in zip(masks, within, strict=True)]
        self._top_drops = np.maximum(0.0, self._largest - np.array(attained))[place.reshape(-1)]

    def ends(self, *allowed: float) -> tuple[FloatArray, FloatArray]:
        """Compute the smallest and the largest values for each of A drops of the log-likelihood from its maximum.

        Args:
            allowed: The drops.

        Returns:
            [A, F] smallest and [A, F] largest values.
        """
        drop = np.repeat(allowed, len(self._heights))
        heights = np.tile(self._heights, (len(allowed), 1))
        start, tops, top_drops = (np.tile(row, len(allowed)) for row in (self._start, self._tops, self._top_drops))
        repeats = np.broadcast_to(self._repeats, (len(heights), len(self._repeats)))
        # Rows: τ, the value, and the root of the drop, which is allowed at `inner` and not at `outer`.
        inner = np.stack([np.full(len(heights), LEAST_TILT), start, np.zeros(len(heights))])
        outer = np.stack([np.full(len(heights), MOST_TILT * self._repeats.sum()), tops, np.sqrt(top_drops)])
        weights = np.tile(self.best, (len(heights), 1))
        for _ in range(BISECTIONS):
            tilts = np.sqrt(inner[0] * outer[0])
            weights = maximize_likelihood(self._likelihood, repeats, heights, tilts, start=weights)
            found = np.maximum(0.0, self._largest - self._log_likelihood(weights))
            point = np.stack([tilts, (weights * heights).sum(axis=1), np.sqrt(found)])
            inner, outer = np.where(found <= drop, point, inner), np.where(found <= drop, outer, point)
        # As a function of the root of the drop, the frontier of a regular functional is a straight line.
        part = (np.sqrt(drop) - inner[2]) / np.maximum(outer[2] - inner[2], 1e-12)
        between = np.clip(inner[1] + part * (outer[1] - inner[1]), start, tops)
        highest, lowest = np.moveaxis(np.where(top_drops <= drop, tops, between).reshape(len(allowed), 2, -1), 1, 0)
        return 1.0 - lowest, highest

    def _log_likelihood(self, weights: FloatArray) -> FloatArray:
        """Return [...] the log-likelihood of distributions [..., K]."""
        return np.asarray(np.log(weights @ self._likelihood.T) @ self._repeats)


def maximize_likelihood(
    likelihood: FloatArray,
    repeats: npt.NDArray[np.number],
    heights: FloatArray | None = None,
    tilts: FloatArray | None = None,
    *,
    start: FloatArray | None = None,
) -> FloatArray:
    """Maximize Σ_u m_u log(L_u·w) + τ log(h·w) over mixing weights w, for R of (m, h, τ) at once.

    By EM, accelerated by squared extrapolation (Varadhan and Roland, Scandinavian Journal of Statistics 35, 2008). Runs in
    single precision: it takes half the time, and the log-likelihood of a thousand problems is off by less than 0.001.

    Args:
        likelihood: [U, K]
        repeats: [R, U] problems m with each distinct count.
        heights: [R, K] h; None leaves the second term out.
        tilts: [R] τ.
        start: [R, K] weights near the maximum, up to a factor, from which fewer steps are taken; None for equal weights.

    Returns:
        [R, K] in double precision; rows sum to one.
    """
    shape = (len(repeats), likelihood.shape[1])
    functional = np.ones(shape, dtype=np.float32) if heights is None else heights.astype(np.float32)
    weight = np.zeros((shape[0], 1)) if tilts is None else tilts[:, None]
    total = repeats.sum(axis=1, keepdims=True) + weight
    table, counted, added = (array.astype(np.float32) for array in (likelihood, repeats / total, weight / total))

    def em_step(weights: MixingWeights) -> MixingWeights:
        evidence = weights @ table.T
        new = np.divide(counted, evidence, out=evidence) @ table
        value = np.einsum("rk,rk->r", weights, functional)[:, None] + MIN_WEIGHT
        new += (added / value) * functional
        new *= weights
        return np.asarray(new)

    weights = np.full(shape, 1.0 / shape[1], dtype=np.float32)
    if start is not None:
        known = start / np.maximum(start.sum(axis=1, keepdims=True), MIN_WEIGHT)
        weights = (0.9 * known + 0.1 * weights).astype(np.float32)
    with np.errstate(invalid="ignore"):  # matrix products may raise this flag for numbers that they compute and throw away
        for _ in range(SQUAREM_STEPS if start is None else FURTHER_STEPS):
            weights = em_step(_extrapolate(weights, em_step))  # the step corrects an extrapolation that overshot
    exact = weights.astype(np.float64)
    assert np.isfinite(exact).all()
    return np.asarray(exact / exact.sum(axis=1, keepdims=True))


def _extrapolate(weights: MixingWeights, em_step: Callable[[MixingWeights], MixingWeights]) -> MixingWeights:
    """Take two EM steps and extrapolate along their direction, row by row."""
    one = em_step(weights)
    two = em_step(one)
    first, second = one - weights, two - 2.0 * one + weights
    length = np.sqrt((first**2).sum(axis=1) / np.maximum((second**2).sum(axis=1), 1e-30))
    length = np.clip(length, 1.0, MAX_STEP_LENGTH)[:, None]
    second *= length
    first *= 2.0
    second += first
    second *= length
    second += weights
    far = np.maximum(second, 0.01 * two)
    far *= two.sum(axis=1, keepdims=True) / far.sum(axis=1, keepdims=True)
    return np.asarray(np.maximum(far, MIN_WEIGHT))
