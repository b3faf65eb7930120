"""Integrates the mixture's four hyperparameters over a grid that closes in on the posterior.

Beta-binomial likelihoods are exact. For problems with some but not all samples right they split into sums of log-gammas over
unique counts, so the cost does not grow with the number of problems; only the counts 0 and n meet the heaps at zero and one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, expit, gammaln

from posttrain.analysis.stats.arrays import FloatArray, IntArray

SHAPE = (28, 9, 28, 20)
"""Cells of the grid along π0^(1/ZERO_POWER), π1/(1−π0), logit(m) and log(s)."""
BOUNDS: tuple[tuple[float, float], ...] = ((0.0, 1.0), (0.0, 1.0), (-11.5129, 11.5129), (-3.9, 7.6))
"""Where the grid may reach: m from 1e-5 to 1 − 1e-5, s from .02 to 2000."""
ZERO_POWER = 3.0
"""π0 ~ Beta(1/ZERO_POWER, 1), so that its root is uniform."""
MASTERED_PRIOR = 4.0
"""π1/(1−π0) ~ Beta(1, MASTERED_PRIOR)."""
LOG_S_PRIOR = (float(np.log(2.0)), 1.5)
"""Mean and standard deviation of log(s)."""
FIRST_LOOK = 40.0
"""The first grid sees the data as if they were this many problems, so that no narrow peak falls between its cells."""
TAIL = 1e-6
"""Posterior mass that may be cut off at each end of an axis."""


@dataclass(frozen=True, slots=True)
class HyperGrid:
    """Posterior weights over cells (h, k): h picks (a, b), k picks (π0, π1)."""

    alpha: FloatArray
    """[H]"""
    beta: FloatArray
    """[H]"""
    zero_share: FloatArray
    """[K] π0"""
    one_share: FloatArray
    """[K] π1"""
    weight: FloatArray
    """[H, K], sums to one"""
    zero_edges: FloatArray
    """[Z + 1] edges of the grid's cells along π0"""
    zero_mass: FloatArray
    """[Z] posterior mass between them, sums to one"""


def integrate(num_samples: IntArray, num_correct: IntArray) -> HyperGrid:
    """Posterior of the hyperparameters given counts.

    Args:
        num_samples: [P] checked counts.
        num_correct: [P] successes among them.

    Returns:
        Grid with weights; cells that hold less than about 1e-6 of the mass together are left out.
    """
    some = num_samples > 0
    counts = _Counts(num_samples[some], num_correct[some])
    box = BOUNDS
    share = min(1.0, FIRST_LOOK / max(1, counts.num_problems))
    while True:
        weight, axes = _posterior(counts, box, share)
        tighter = tuple(_tighten(weight, axis, box[axis]) for axis in range(4))
        shrunk = any(new[1] - new[0] < 0.75 * (old[1] - old[0]) for new, old in zip(tighter, box, strict=True))
        if share == 1.0 and not shrunk:
            break
        box, share = tighter, min(1.0, 4.0 * share)
    root, mastered, logit_mean, log_size = axes
    mean, size = np.meshgrid(expit(logit_mean), np.exp(log_size), indexing="ij")
    complement = np.meshgrid(expit(-logit_mean), np.exp(log_size), indexing="ij")[0]
    zero_share, ratio = np.meshgrid(root**ZERO_POWER, mastered, indexing="ij")
    table = np.moveaxis(weight, (2, 3), (0, 1)).reshape(mean.size, zero_share.size)
    rows, columns = _heavy(table.sum(axis=1)), _heavy(table.sum(axis=0))
    table = table[np.ix_(rows, columns)]
    return HyperGrid(
        alpha=(mean * size).reshape(-1)[rows],
        beta=(complement * size).reshape(-1)[rows],
        zero_share=zero_share.reshape(-1)[columns],
        one_share=((1.0 - zero_share) * ratio).reshape(-1)[columns],
        weight=table / table.sum(),
        zero_edges=np.linspace(*box[0], SHAPE[0] + 1) ** ZERO_POWER,
        zero_mass=weight.sum(axis=(1, 2, 3)),
    )


class _Counts:
    """Counts in the form that the likelihood needs."""

    def __init__(self, num_samples: IntArray, num_correct: IntArray) -> None:
        self.num_problems = num_samples.size
        inside = (num_correct > 0) & (num_correct < num_samples)
        self.num_inside = int(inside.sum())
        self.right = np.unique(num_correct[inside], return_counts=True)
        self.wrong = np.unique((num_samples - num_correct)[inside], return_counts=True)
        self.total = np.unique(num_samples[inside], return_counts=True)
        self.none_right = np.unique(num_samples[num_correct == 0], return_counts=True)
        self.all_right = np.unique(num_samples[num_correct == num_samples], return_counts=True)

    def inside_log_likelihood(self, alpha: FloatArray, beta: FloatArray) -> FloatArray:
        """Sum over problems with 0 < c < n of log B(a+c, b+n−c) / B(a, b), shape of alpha."""
        result = -self.num_inside * betaln(alpha, beta)
        for (values, repeats), start, sign in ((self.right, alpha, 1), (self.wrong, beta, 1), (self.total, alpha + beta, -1)):
            if values.size:
                result = result + sign * (gammaln(start[..., None] + values) @ repeats.astype(np.float64))
        return result


def _posterior(counts: _Counts, box: tuple[tuple[float, float], ...], share: float) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """Normalised weights of all cells, with the likelihood raised to the power `share`, and the cells' midpoints."""
    axes = tuple(low + (high - low) * (np.arange(size) + 0.5) / size for (low, high), size in zip(box, SHAPE, strict=True))
    zero, mastered = axes[0][:, None] ** ZERO_POWER, axes[1][None, :]
    spread = ((1.0 - zero) * (1.0 - mastered))[:, :, None, None]
    at_zero, at_one = zero[:, :, None, None], ((1.0 - zero) * mastered)[:, :, None, None]
    size = np.exp(axes[3])[None, :]
    alpha, beta = expit(axes[2])[:, None] * size, expit(-axes[2])[:, None] * size
    base = betaln(alpha, beta)
    log_likelihood = counts.inside_log_likelihood(alpha, beta) + counts.num_inside * np.log(spread)
    for n, repeats in zip(*counts.none_right, strict=True):
        log_likelihood = log_likelihood + repeats * np.log(at_zero + spread * np.exp(betaln(alpha, beta + n) - base))
    for n, repeats in zip(*counts.all_right, strict=True):
        log_likelihood = log_likelihood + repeats * np.log(at_one + spread * np.exp(betaln(alpha + n, beta) - base))
    centre, scale = LOG_S_PRIOR
    log_prior = (MASTERED_PRIOR - 1.0) * np.log1p(-axes[1])[None, :, None, None] - 0.5 * ((axes[3] - centre) / scale) ** 2
    log_weight = share * log_likelihood + log_prior
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum(), axes


def _tighten(weight: FloatArray, axis: int, bounds: tuple[float, float]) -> tuple[float, float]:
    """The part of one axis that holds the mass, with a cell to spare on either side."""
    marginal = weight.sum(axis=tuple(other for other in range(4) if other != axis))
    cumulative = np.cumsum(marginal)
    first = int(np.searchsorted(cumulative, TAIL))
    last = int(np.searchsorted(cumulative, 1.0 - TAIL))
    cell = (bounds[1] - bounds[0]) / marginal.size
    return max(bounds[0], bounds[0] + (first - 1) * cell), min(bounds[1], bounds[0] + (last + 2) * cell)


def _heavy(mass: FloatArray) -> IntArray:
    """Indices, in order, of the entries that hold all but a millionth of the mass."""
    order = np.argsort(mass)[::-1]
    kept = int(np.searchsorted(np.cumsum(mass[order]), mass.sum() * (1.0 - TAIL))) + 1
    return np.sort(order[:kept])
