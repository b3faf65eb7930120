"""Intervals for a mean over the population of problems that hold whatever the law of success rates is.

For a functional θ(G) = Σ g_k h_k of the law G (mean pass@k, the share of problems below a rate), the interval is all values that
some law attains whose log-likelihood is within ½ t² of the greatest one: a profile likelihood over *all* laws on the grid. It needs
no unbiased estimate, so the number of samples may differ between problems and may have been chosen by looking; and it reaches
beyond k = n, where it turns into bounds: what no samples can tell stays inside the interval.

**How.** The law of greatest θ among those of a given likelihood maximises Σ log-likelihood + τ log θ for some τ: as if τ more
problems had been seen whose likelihood is h. So the frontier is traced by EM with one row added, for a ladder of τ, upwards with h
and downwards with 1 − h.

**Identified.** The same frontier read at a hundredth of the drop says how wide the interval would still be with a hundred times as
many problems sampled as often. Where that is wide, more problems would not help, and the quantity is called not identified; so it is
where the interval is wider than the number of problems explains (`FEW_PROBLEMS`).

Source: confidence sets for functionals of a mixing distribution as in arXiv 1902.02774, here by profile likelihood; extrapolation of
pass@k by likelihood, arXiv 2510.05197.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from posttrain.analysis.stats.arrays import FloatArray
from posttrain.analysis.stats.expectation import SMALLEST, Laws, climb
from posttrain.analysis.stats.intervals import Interval

TILTS = np.geomspace(0.5, 1000.0, 8)
LEAPS = 60
"""Accelerated EM steps; the frontier is then within .1 of its log-likelihood wherever it is read."""
MANY_MORE = 100.0
IDENTIFIED_WIDTH = 0.1
"""Widest interval, at `MANY_MORE` times as many problems, of a quantity that counts as identified."""
FEW_PROBLEMS = 3.0
"""A quantity whose interval is wider than this over the root of the number of problems is not identified either: were every problem a
coin whose outcome is known, the width would be 1.96 over that root, and what is half again as wide is not for want of problems."""
SHARP_WIDTH = 0.02
"""Width, at `MANY_MORE` times as many problems, up to which the maximum-likelihood estimate is quoted; beyond, the middle."""


@dataclass(frozen=True, slots=True)
class LawInterval(Interval):
    """An interval over all laws."""

    identified: bool = True
    """Whether more problems, sampled as often, would pin the quantity down; else `estimate` is NaN and the ends are bounds."""


def law_intervals(
    likelihood: FloatArray,
    repeats: FloatArray,
    functionals: FloatArray,
    *,
    level: float = 0.95,
    degrees: float,
    start: FloatArray,
) -> list[LawInterval]:
    """Interval of each functional.

    Args:
        likelihood: [U, K] likelihood of each count at each rate.
        repeats: [U] problems with that count, divided by the design effect where problems are related.
        functionals: [F, K] values in [0, 1] at each rate.
        level: confidence.
        degrees: degrees of freedom of the t quantile: problems (or groups) less one.
        start: [K] law from which EM starts.
    """
    if not len(repeats) or repeats.sum() <= 0.0:
        return [LawInterval(np.nan, 0.0, 1.0, "no samples", False) for _ in functionals]
    both = np.stack([functionals, 1.0 - functionals], axis=1)
    num_functionals, num_rates = functionals.shape
    tilted = np.repeat(both.reshape(-1, num_rates), len(TILTS), axis=0)
    rows = np.concatenate([np.ones((1, num_rates)), tilted])
    tilts = np.concatenate([[0.0], np.tile(TILTS, 2 * num_functionals)])
    laws = _maximise(np.broadcast_to(start, rows.shape), likelihood, repeats, rows, tilts)
    log_likelihood = np.log(laws @ likelihood.T) @ repeats
    drops = log_likelihood.max() - log_likelihood
    best = laws[int(np.argmin(drops))]
    allowed = 0.5 * float(scipy.stats.t.ppf(0.5 + level / 2, max(1.0, degrees))) ** 2
    found = []
    for index, h in enumerate(functionals):
        estimate = float(best @ h)
        block = slice(1 + 2 * index * len(TILTS), 1 + 2 * (index + 1) * len(TILTS))
        values, down = (laws[block] @ h).reshape(2, -1), drops[block].reshape(2, -1)
        low, high = _reach(values, down, estimate, allowed, h)
        near_low, near_high = _reach(values, down, estimate, allowed / MANY_MORE, h)
        few = FEW_PROBLEMS / float(np.sqrt(max(1.0, degrees + 1.0)))
        identified = near_high - near_low <= IDENTIFIED_WIDTH and high - low <= max(2.0 * IDENTIFIED_WIDTH, few)
        if near_high - near_low > SHARP_WIDTH:
            # On a flat stretch of the likelihood the maximum is an accident of rounding; its middle is not.
            estimate = (near_low + near_high) / 2
        method = "profile likelihood over all laws" if identified else "not identified: bounds over all laws"
        found.append(LawInterval(estimate if identified else np.nan, low, high, method, identified))
    return found


def _reach(values: FloatArray, drops: FloatArray, estimate: float, allowed: float, h: FloatArray) -> tuple[float, float]:
    """Where the frontier [2, T], upwards and downwards, meets the allowed drop."""
    ends = []
    for value, drop, limit in zip(values, drops, (float(h.max()), float(h.min())), strict=True):
        # In the root of the drop the frontier of a regular functional is a straight line.
        root = np.maximum.accumulate(np.sqrt(np.maximum(0.0, np.concatenate([[0.0], drop]))))
        along = np.concatenate([[estimate], value])
        reached = limit if root[-1] < np.sqrt(allowed) else float(np.interp(np.sqrt(allowed), root, along))
        ends.append(reached)
    return min(ends[1], estimate), max(ends[0], estimate)


def _maximise(start: FloatArray, likelihood: FloatArray, repeats: FloatArray, rows: FloatArray, tilts: FloatArray) -> FloatArray:
    """Maximise Σ_u m_u log(L_u·w) + τ log(h·w) over laws w, for every row (h, τ) at once."""
    total = (repeats.sum() + tilts)[:, None]
    table, functional = likelihood.astype(np.float32), rows.astype(np.float32)
    counted, added = (repeats / total).astype(np.float32), (tilts[:, None] / total).astype(np.float32)

    def step(laws: Laws) -> Laws:
        evidence = laws @ table.T
        new = np.divide(counted, evidence, out=evidence) @ table
        hit = np.einsum("rk,rk->r", laws, functional)[:, None] + SMALLEST
        new += (added / hit) * functional
        new *= laws
        return np.asarray(new)

    return climb(start, step, LEAPS)
