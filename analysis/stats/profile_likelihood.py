"""Profile-likelihood intervals for population means that hold for any mixing distribution of success rates.

For a functional θ(G) = Σ g_k h_k of the mixing distribution G (mean pass@k, the share of problems below a rate), the interval is the set
of values attained by some distribution whose log-likelihood is within ½ t² of the maximum: a profile likelihood over *all* distributions
on the grid. It needs no unbiased estimate, so sample counts may differ between problems and may come from adaptive sampling. It also
reaches beyond k = n, where it becomes bounds: what the samples cannot tell stays inside the interval.

**Computation.** Among the distributions of a given likelihood, the one with the largest θ maximizes Σ log-likelihood + τ log θ for some
τ: as if τ more problems with likelihood h had been observed. The frontier is therefore traced by EM with one pseudo-observation added,
for a sequence of τ, upwards with h and downwards with 1 − h.

**Identification.** The same frontier, read at a hundredth of the allowed drop, shows how wide the interval would be with a hundred times
as many problems sampled as often. Where that is wide, more problems would not help and the quantity is called not identified; so it is
where the interval is wider than the number of problems explains (`FEW_PROBLEMS`).

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
from posttrain.analysis.stats.squarem import MIN_WEIGHT, MixingWeights, run_squarem

TILTS = np.geomspace(0.5, 1000.0, 8)
"""Values of τ."""
SQUAREM_STEPS = 60
"""The frontier is then within 0.1 of its log-likelihood wherever it is read."""
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
MOST_JACKKNIFED = 50
"""Groups from which the design effect alone is enough."""


def population_intervals(
    num_samples: IntArray,
    num_correct: IntArray,
    functionals: Callable[[FloatArray], FloatArray],
    *,
    level: float = 0.95,
    groups: IntArray | None = None,
) -> list[Interval]:
    """Compute the interval of each functional of the distribution of success rates in the population of problems.

    Args:
        num_samples: [P] samples, at least 1 each.
        num_correct: [P] successes.
        functionals: Takes rates [K] and returns F values in [0, 1] at each, [F, K].
        level: Confidence.
        groups: [P] index of the group of each problem, or None where problems are unrelated.

    Returns:
        F intervals; an estimate is NaN where the samples do not identify it.
    """
    rates = rate_grid(int(num_samples.max(initial=0)))
    values = functionals(rates)
    pairs, place, repeats = np.unique(
        np.stack([num_samples, num_correct], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    likelihood = likelihood_table(pairs[:, 0], pairs[:, 1], rates)
    if groups is None or not num_samples.size:
        return profile_intervals(likelihood, repeats, values, level=level, degrees=num_samples.size - 1)
    num_groups = len(np.unique(groups))
    effect = design_effect(num_correct / num_samples, groups)
    found = profile_intervals(likelihood, repeats / effect, values, level=level, degrees=num_groups - 1)
    if num_groups > MOST_JACKKNIFED:
        return found
    table = np.zeros((num_groups, len(pairs)))
    np.add.at(table, (np.unique(groups, return_inverse=True)[1].reshape(-1), place.reshape(-1)), 1.0)
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


def rate_grid(most_samples: int) -> FloatArray:
    """Return rates [K] from 0 to 1 that lie closer together than the samples can resolve.

    Between 2/n and 1 − 2/n neighbors are evenly spaced in arcsin √p, .6 standard errors of n samples apart but no less than .02; outside,
    they differ by a factor of e^(1/3) in the odds, from 1e−5 on.

    Args:
        most_samples: The largest number n of samples of one problem.
    """
    n = max(4, most_samples)
    edge, step = 2.0 / n, max(0.02, 0.3 / np.sqrt(n))
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
    if not len(repeats):
        return [Interval(np.nan, 0.0, 1.0, "no samples") for _ in functionals]
    both = np.stack([functionals, 1.0 - functionals], axis=1)
    num_functionals, num_rates = functionals.shape
    tilted = np.repeat(both.reshape(-1, num_rates), len(TILTS), axis=0)
    rows = np.concatenate([np.ones((1, num_rates)), tilted])
    tilts = np.concatenate([[0.0], np.tile(TILTS, 2 * num_functionals)])
    weights = maximize_likelihood(likelihood, np.broadcast_to(repeats, (len(rows), len(repeats))), rows, tilts)
    log_likelihood = np.log(weights @ likelihood.T) @ repeats
    drops = log_likelihood.max() - log_likelihood
    best = weights[int(np.argmin(drops))]
    allowed = 0.5 * float(scipy.stats.t.ppf(0.5 + level / 2, max(1.0, degrees))) ** 2
    found = []
    for index, h in enumerate(functionals):
        estimate = float(best @ h)
        block = slice(1 + 2 * index * len(TILTS), 1 + 2 * (index + 1) * len(TILTS))
        values, down = (weights[block] @ h).reshape(2, -1), drops[block].reshape(2, -1)
        low, high = _frontier_ends(values, down, estimate, allowed, h)
        near_low, near_high = _frontier_ends(values, down, estimate, allowed / MANY_MORE, h)
        few = FEW_PROBLEMS / float(np.sqrt(max(1.0, degrees + 1.0)))
        identified = near_high - near_low <= IDENTIFIED_WIDTH and high - low <= max(2.0 * IDENTIFIED_WIDTH, few)
        if near_high - near_low > SHARP_WIDTH:
            # On a flat stretch of the likelihood the maximum depends on rounding; the midpoint does not.
            estimate = (near_low + near_high) / 2
        method = "profile likelihood" if identified else "not identified: profile-likelihood bounds"
        found.append(Interval(estimate if identified else np.nan, low, high, method))
    return found


def _frontier_ends(values: FloatArray, drops: FloatArray, estimate: float, allowed: float, h: FloatArray) -> tuple[float, float]:
    """Return where the frontier [2, T], upwards and downwards, reaches the allowed drop."""
    ends = []
    for value, drop, limit in zip(values, drops, (float(h.max()), float(h.min())), strict=True):
        # As a function of the root of the drop, the frontier of a regular functional is a straight line.
        root = np.maximum.accumulate(np.sqrt(np.maximum(0.0, np.concatenate([[0.0], drop]))))
        along = np.concatenate([[estimate], value])
        reached = limit if root[-1] < np.sqrt(allowed) else float(np.interp(np.sqrt(allowed), root, along))
        ends.append(reached)
    return min(ends[1], estimate), max(ends[0], estimate)


def maximize_likelihood(
    likelihood: FloatArray,
    repeats: npt.NDArray[np.number],
    heights: FloatArray | None = None,
    tilts: FloatArray | None = None,
) -> FloatArray:
    """Maximize Σ_u m_u log(L_u·w) + τ log(h·w) over mixing weights w by EM from equal weights, for R of (m, h, τ) at once.

    Args:
        likelihood: [U, K]
        repeats: [R, U] problems m with each distinct count.
        heights: [R, K] h; None leaves the second term out.
        tilts: [R] τ.

    Returns:
        [R, K]
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

    return run_squarem(np.full(shape, 1.0 / shape[1]), em_step, SQUAREM_STEPS)
