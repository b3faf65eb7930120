"""Maximum likelihood for the zero-inflated beta-binomial, with a goodness-of-fit test: an independent check of `fit_mixture`.

It has no point mass at one and no prior: without successes its likelihood has no interior maximum, and `at_bound` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats
from scipy.special import betaln, expit, logit

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts, check_k

LIMIT = 12.0
"""Bound on |logit(π0)| and |logit(m)|; log(s) lies within ±8."""


@dataclass(frozen=True, slots=True)
class MixtureML:
    """The fit π0·δ(0) + (1 − π0)·Beta(a, b)."""

    zero_share: float
    """π0"""
    alpha: float
    beta: float
    log_likelihood: float
    """Log-likelihood of the ordered outcomes: without binomial coefficients."""
    at_bound: bool
    """Whether a parameter reached its bound, so that the maximum lies outside; π0 at zero does not count."""
    statistic: float
    """Pearson's statistic over classes of the success rate; NaN where there are too few classes."""
    degrees: int
    p_value: float
    """Probability of a worse fit if the model were true; NaN with `statistic`."""

    def pass_at_k(self, k: int) -> float:
        """Return mean pass@k over the population: (1 − π0)(1 − B(a, b+k)/B(a, b)).

        Raises:
            ValueError: k below 1.

        Source: arXiv 2510.05197, with zero inflation.
        """
        check_k(k)
        return float((1.0 - self.zero_share) * -np.expm1(betaln(self.alpha, self.beta + k) - betaln(self.alpha, self.beta)))


def fit_mixture_ml(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike) -> MixtureML:
    """Fit π0, a and b by maximum likelihood, from several starts.

    Args:
        num_samples: [P] samples; problems without samples are left out.
        num_correct: [P] successes.

    Raises:
        ValueError: bad counts, or no samples at all.

    Source: arXiv 2510.05197.
    """
    samples, correct = as_counts(num_samples, num_correct)
    n, c = samples[samples > 0], correct[samples > 0]
    if n.size == 0:
        raise ValueError("there are no samples to fit")
    pairs, repeats = np.unique(np.stack([n, c], axis=1), axis=0, return_counts=True)

    def loss(theta: FloatArray) -> float:
        zero, alpha, beta = _unpack(theta)
        return -float(repeats @ _log_marginal(pairs[:, 0], pairs[:, 1], zero, alpha, beta))

    mean = float(logit(np.clip(c.sum() / n.sum(), 1e-4, 1 - 1e-4)))
    bounds = [(-LIMIT, LIMIT), (-LIMIT, LIMIT), (-8.0, 8.0)]
    starts = [np.array([zero, mean + shift, size]) for zero, shift in ((-4.0, 0.0), (0.0, 0.7)) for size in (0.0, 2.5)]
    fits = [optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts]
    best = min(fits, key=lambda fit: float(fit.fun))
    theta = np.asarray(best.x, dtype=np.float64)
    zero, alpha, beta = _unpack(theta)
    at_bound = bool(theta[0] > LIMIT - 0.01 or abs(theta[1]) > LIMIT - 0.01 or abs(theta[2]) > 7.99)
    statistic, degrees, p_value = _goodness(n, c, zero, alpha, beta)
    return MixtureML(zero, alpha, beta, -float(best.fun), at_bound, statistic, degrees, p_value)


def _unpack(theta: FloatArray) -> tuple[float, float, float]:
    size = float(np.exp(theta[2]))
    return float(expit(theta[0])), float(expit(theta[1])) * size, float(expit(-theta[1])) * size


def _log_marginal(n: IntArray, c: IntArray, zero: float, alpha: float, beta: float) -> FloatArray:
    spread: FloatArray = np.log1p(-zero) + betaln(alpha + c, beta + n - c) - betaln(alpha, beta)
    return np.where(c == 0, np.logaddexp(np.log(zero), spread), spread).astype(np.float64)


def _goodness(n: IntArray, c: IntArray, zero: float, alpha: float, beta: float) -> tuple[float, int, float]:
    """Compare observed with expected problems per class of c; classes hold at least five expected problems."""
    # Problems with different n are compared by rank: the class of a count is where its distribution function puts it.
    classes = np.array([0.0, *np.linspace(0.0, 1.0, 11)[1:]])
    observed, expected = np.zeros(11), np.zeros(11)
    for size, repeats in zip(*np.unique(n, return_counts=True), strict=True):
        mass = (1.0 - zero) * stats.betabinom.pmf(np.arange(size + 1), size, alpha, beta)
        mass[0] += zero
        rate = np.arange(size + 1) / size
        index = np.searchsorted(classes[1:], rate - 1e-12) + 1
        index[0] = 0
        np.add.at(expected, index, repeats * mass)
        np.add.at(observed, index[c[n == size]], 1.0)
    merged: list[list[float]] = []
    for seen, due in zip(observed, expected, strict=True):
        if merged and merged[-1][1] < 5.0:
            merged[-1][0] += seen
            merged[-1][1] += due
        else:
            merged.append([float(seen), float(due)])
    if len(merged) > 1 and merged[-1][1] < 5.0:
        last = merged.pop()
        merged[-1][0] += last[0]
        merged[-1][1] += last[1]
    degrees = len(merged) - 1 - 3
    if degrees < 1:
        return float("nan"), degrees, float("nan")
    table = np.asarray(merged)
    statistic = float(np.sum((table[:, 0] - table[:, 1]) ** 2 / table[:, 1]))
    return statistic, degrees, float(stats.chi2.sf(statistic, degrees))
