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

Source: confidence sets for functionals of a mixing distribution as in arXiv 1902.02774, here by profile likelihood; extrapolation of
pass@k by likelihood, arXiv 2510.05197.
"""

from __future__ import annotations

import numpy as np
import scipy

from posttrain.analysis.stats.arrays import FloatArray
from posttrain.analysis.stats.intervals import Interval
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


def profile_intervals(
    likelihood: FloatArray,
    repeats: FloatArray,
    functionals: FloatArray,
    *,
    level: float = 0.95,
    degrees: float,
    start: FloatArray,
) -> list[Interval]:
    """Compute the interval of each functional.

    Args:
        likelihood: [U, K] likelihood of each distinct count at each rate.
        repeats: [U] number of problems with that count, divided by the design effect where problems are related.
        functionals: [F, K] values in [0, 1] at each rate.
        level: Confidence.
        degrees: Degrees of freedom of the t quantile: problems (or groups) minus one.
        start: [K] distribution from which EM starts.
    """
    if not len(repeats) or repeats.sum() <= 0.0:
        return [Interval(np.nan, 0.0, 1.0, "no samples") for _ in functionals]
    both = np.stack([functionals, 1.0 - functionals], axis=1)
    num_functionals, num_rates = functionals.shape
    tilted = np.repeat(both.reshape(-1, num_rates), len(TILTS), axis=0)
    rows = np.concatenate([np.ones((1, num_rates)), tilted])
    tilts = np.concatenate([[0.0], np.tile(TILTS, 2 * num_functionals)])
    weights = _maximize(np.broadcast_to(start, rows.shape), likelihood, repeats, rows, tilts)
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


def _maximize(start: FloatArray, likelihood: FloatArray, repeats: FloatArray, rows: FloatArray, tilts: FloatArray) -> FloatArray:
    """Maximize Σ_u m_u log(L_u·w) + τ log(h·w) over mixing weights w, for every row (h, τ) at once."""
    total = (repeats.sum() + tilts)[:, None]
    table, functional = likelihood.astype(np.float32), rows.astype(np.float32)
    counted, added = (repeats / total).astype(np.float32), (tilts[:, None] / total).astype(np.float32)

    def em_step(weights: MixingWeights) -> MixingWeights:
        evidence = weights @ table.T
        new = np.divide(counted, evidence, out=evidence) @ table
        value = np.einsum("rk,rk->r", weights, functional)[:, None] + MIN_WEIGHT
        new += (added / value) * functional
        new *= weights
        return np.asarray(new)

    return run_squarem(start, em_step, SQUAREM_STEPS)
