"""A fine grid of success rates, the prior on it, and the likelihood of counts at each rate.

The grid can represent any mixing distribution of success rates over problems: it has point masses at 0 and 1, a point at each decision
threshold, and rates in between that lie closer together than n samples can resolve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, IntArray

LOWEST, HIGHEST = 1e-5, 1.0 - 1e-4
"""Rates between which the grid is filled."""
ZERO_PRIOR, ONE_PRIOR, MARK_PRIOR = 0.25, 0.05, 0.1
"""Prior share of problems at rate 0, at rate 1, and at each mark; the remaining mass is uniform in log-odds."""
KERNEL_WIDTH = 2.0
"""Standard deviation of a smoothing kernel, in grid steps: a little over one standard error of the problem with the most samples."""
MIN_LOG_LIKELIHOOD = -60.0
"""Log-likelihoods further below the largest are raised to this: smaller numbers only slow the arithmetic down."""


@dataclass(frozen=True, slots=True)
class RateGrid:
    """Rates and the prior share of problems at each."""

    rates: FloatArray
    """[K], increasing, from 0 to 1."""
    prior: FloatArray
    """[K], sums to one."""
    marks: IntArray
    """[M] indices of the marks. The point before each is its twin: the greatest number below it, which no sample can tell from it."""
    kernels: FloatArray
    """[K, K] one smoothing kernel per row: `KERNEL_WIDTH` grid steps wide for rates in between, a point mass for 0, 1 and the marks."""


def rate_grid(most_samples: int, marks: Sequence[float] = ()) -> RateGrid:
    """Build the grid.

    Between 2/n and 1 − 2/n, neighbors are evenly spaced in arcsin √p, 0.6 standard errors of n samples apart but no less than 0.02;
    outside, they differ by a factor of e^(1/3) in the odds.

    Args:
        most_samples: The largest number n of samples of one problem.
        marks: Rates inside (0, 1) that get a point of their own: decision thresholds. A mixing distribution may have a point mass there,
            and a smooth prior would be overconfident about the side it lies on. Each has a twin just below it, without prior mass.
    """
    n = max(4, most_samples)
    edge = 2.0 / n
    step = max(0.02, 0.3 / np.sqrt(n))
    middle = np.sin(np.arange(np.arcsin(np.sqrt(edge)), np.arcsin(np.sqrt(1.0 - edge)) + step / 2, step)) ** 2
    odds = np.arange(scipy.special.logit(LOWEST), scipy.special.logit(HIGHEST) + 1e-9, 1.0 / 3.0)
    tails = scipy.special.expit(odds[(odds < scipy.special.logit(edge) - 0.1) | (odds > scipy.special.logit(1.0 - edge) + 0.1)])
    inner = np.union1d(middle, tails)
    for mark in marks:
        inner = inner[np.abs(np.arcsin(np.sqrt(inner)) - np.arcsin(np.sqrt(mark))) > min(0.5 * step, 0.1 * np.sqrt(mark))]
    width = _cell_widths(scipy.special.logit(inner))
    share = 1.0 - ZERO_PRIOR - ONE_PRIOR - MARK_PRIOR * len(marks)
    at = np.asarray(marks, dtype=np.float64)
    rates = np.concatenate([[0.0], inner, np.nextafter(at, 0.0), at, [1.0]])
    point_masses = np.concatenate([np.zeros(at.size), np.full(at.size, MARK_PRIOR)])
    prior = np.concatenate([[ZERO_PRIOR], share * width / width.sum(), point_masses, [ONE_PRIOR]])
    smooth = np.concatenate([[False], np.full(inner.size, True), np.full(2 * at.size, False), [False]])
    order = np.argsort(rates, kind="stable")
    return RateGrid(
        rates=rates[order], prior=prior[order], marks=np.searchsorted(rates[order], at), kernels=_kernels(smooth[order])
    )


def likelihood_table(num_samples: IntArray, num_correct: IntArray, rates: npt.NDArray[np.float64]) -> FloatArray:
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
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(rates)[None, :], np.log1p(-rates)[None, :]
    with np.errstate(invalid="ignore"):
        table = np.where(right == 0.0, 0.0, right * log_p) + np.where(wrong == 0.0, 0.0, wrong * log_q)
    return np.asarray(np.exp(np.maximum(table - table.max(axis=1, keepdims=True), MIN_LOG_LIKELIHOOD)))


def _kernels(smooth: npt.NDArray[np.bool_]) -> FloatArray:
    """[K, K] Gaussian kernels over the points that are smoothed, the identity elsewhere."""
    kernels = np.eye(smooth.size)
    (places,) = np.nonzero(smooth)
    steps = np.arange(places.size)
    kernel = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / KERNEL_WIDTH) ** 2)
    kernels[np.ix_(places, places)] = kernel / kernel.sum(axis=1, keepdims=True)
    return kernels


def _cell_widths(points: FloatArray) -> FloatArray:
    middles = (points[1:] + points[:-1]) / 2
    edges = np.concatenate([[points[0]], middles, [points[-1]]])
    return np.diff(edges)
