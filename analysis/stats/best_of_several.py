"""Several policies measured on the same problems: which may be the best, and how good the observed best is.

    S_j = mean over behaviors b of mean over problems i of v_bij,     S ~ N(θ, Σ),     Σ = Σ_b Cov_b / B²

Policies share their problems, so errors are strongly correlated and only differences matter. Problems (or groups of related ones) are the
sampling unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, check_level
from posttrain.analysis.stats.deltas import normal_draws, paired_units
from posttrain.analysis.stats.intervals import DELTA_PSEUDO_OBSERVATIONS, Interval

_NUM_SPREADS = 200
"""Points at which the spread of the true scores is integrated."""


@dataclass(frozen=True, slots=True)
class PolicyValues:
    """Values of C policies on the problems of one behavior."""

    values: npt.ArrayLike
    """[P, C] values in [0, 1], such as success rates; a problem with NaN for any policy is left out."""
    groups: Sequence[Any] | None = None
    """[P] name of the group of each problem; None where they are unrelated."""
    variance: npt.ArrayLike | None = None
    """[C] of each mean, where the values themselves are estimates that vary less than what they estimate; None for unbiased estimates."""


@dataclass(frozen=True, slots=True)
class PolicyScores:
    """Mean scores of C policies on the same problems, and how they vary together."""

    estimate: FloatArray
    """[C]"""
    covariance: FloatArray
    """[C, C] of the estimates, over the problems that there might have been."""
    degrees: float
    """Degrees of freedom of the covariance (Welch and Satterthwaite): few where most of it is that of a behavior with few problems."""

    @classmethod
    def of(cls, behaviors: Sequence[PolicyValues]) -> PolicyScores:
        """Average behaviors, each with equal weight.

        Every difference of two policies has a quarter of a pseudo-observation at −1 and at +1, so that its variance is never zero.

        Raises:
            ValueError: No behavior, a behavior without problems, or numbers of policies that differ.
        """
        units = [paired_units(np.asarray(one.values, dtype=np.float64), one.groups)[1] for one in behaviors]
        if not units or any(one.shape[0] == 0 for one in units) or len({one.shape[1] for one in units}) > 1:
            raise ValueError(f"need values of the same policies on each behavior, got shapes {[one.shape for one in units]}")
        covariance, num_policies = np.zeros((units[0].shape[1],) * 2), units[0].shape[1]
        traces, degrees = [], []
        for of, one in zip(behaviors, units, strict=True):
            size = one.shape[0]
            within = np.atleast_2d(np.cov(one, rowvar=False)) / size if size > 1 else np.zeros_like(covariance)
            extra = np.zeros(num_policies) if of.variance is None else np.asarray(of.variance, dtype=np.float64)
            of_behavior = within + np.diag(DELTA_PSEUDO_OBSERVATIONS / size**2 + extra)
            covariance += of_behavior
            traces.append(float(np.trace(of_behavior)))
            degrees.append(size - 1 + 2 * DELTA_PSEUDO_OBSERVATIONS)
        return cls(
            estimate=np.mean([one.mean(axis=0) for one in units], axis=0),
            covariance=covariance / len(units) ** 2,
            degrees=sum(traces) ** 2 / sum(trace**2 / of for trace, of in zip(traces, degrees, strict=True)),
        )

    def against(self, index: int) -> tuple[FloatArray, FloatArray]:
        """Return how far each policy is above that of an index [C], and the covariance of these differences [C, C]."""
        cov = self.covariance
        return self.estimate - self.estimate[index], cov - cov[index] - cov[:, [index]] + cov[index, index]


def may_be_best(scores: PolicyScores, index: int, *, rng: np.random.Generator, level: float = 0.95) -> bool:
    """Return whether no other policy is shown to be better than that of an index.

    The policies for which this is true are a confidence set for the best one: only the test of the truly best one must hold its level, so
    the choice among C policies is paid by the largest of C − 1 correlated t statistics, not by all pairs (multiple comparisons with the
    best, Hsu 1984; model confidence sets follow the same idea).

    Args:
        scores: Of all policies.
        index: Of the policy.
        rng: Random generator.
        level: Probability that the set of all such policies holds the best one.
    """
    check_level(level)
    difference, covariance = scores.against(index)
    others = np.arange(difference.size) != index
    difference, covariance = difference[others], covariance[np.ix_(others, others)]
    if not difference.size or np.all(difference <= 0.0):
        return True
    error = np.sqrt(np.diag(covariance))
    draws = normal_draws(covariance / np.outer(error, error), rng)
    largest = draws.max(axis=1) / np.sqrt(rng.chisquare(scores.degrees, len(draws)) / scores.degrees)
    critical = max(float(np.quantile(largest, level)), float(scipy.special.stdtrit(scores.degrees, level)))
    return bool(np.all(difference <= critical * error))


def shrunken_score(scores: PolicyScores, candidates: Sequence[int], index: int, *, level: float = 0.95) -> Interval:
    """Estimate the true score of the policy that did best among candidates: its own score is too high, because it was chosen for it.

    True scores of the candidates are normal around a common mean with an unknown spread; the spread is integrated over, with equal prior
    weight on every value up to twice the observed range. Where the data do not tell the candidates apart, all of them are drawn to their
    mean. Give as candidates the policies that may be the best: one that is far behind says nothing of how much those in front differ.

    Args:
        scores: Of all policies.
        candidates: Indexes of the policies among which the best was chosen.
        index: Of the chosen one, which is one of them.
        level: Probability of the interval.

    Returns:
        The posterior mean and an interval from a t distribution with the posterior variance.

    Raises:
        ValueError: The chosen one is not a candidate.

    Source: empirical Bayes for the winner's curse; for the model, Efron, Journal of the American Statistical Association 106, 2011.
    """
    check_level(level)
    if index not in candidates:
        raise ValueError(f"the chosen policy {index} is none of the candidates {list(candidates)}")
    chosen, size = list(candidates).index(index), len(candidates)
    estimate, covariance = scores.estimate[list(candidates)], scores.covariance[np.ix_(candidates, candidates)]
    quantile = float(scipy.special.stdtrit(scores.degrees, 0.5 + level / 2))
    if size == 1:
        half = quantile * float(np.sqrt(covariance[0, 0]))
        return _clipped(float(estimate[0]), half, "the only candidate")
    most = 2.0 * max(float(np.ptp(estimate)), float(np.sqrt(np.diag(covariance).max())))
    weights, means, variances = np.empty((3, _NUM_SPREADS))
    ones = np.ones(size)
    for place, spread in enumerate(np.linspace(0.0, most, _NUM_SPREADS)):
        total = covariance + (spread**2 + 1e-12) * np.eye(size)
        inverse = np.linalg.inv(total)
        precision = float(ones @ inverse @ ones)
        mean = float(ones @ inverse @ estimate) / precision
        residual = estimate - mean
        pull = spread**2 * inverse[chosen]
        rest = 1.0 - float(pull @ ones)
        means[place] = mean + float(pull @ residual)
        variances[place] = spread**2 - spread**2 * float(pull[chosen]) + rest**2 / precision
        weights[place] = -0.5 * (np.linalg.slogdet(total)[1] + np.log(precision) + float(residual @ inverse @ residual))
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    value = float(weights @ means)
    variance = float(weights @ (variances + means**2)) - value**2
    return _clipped(value, quantile * float(np.sqrt(max(variance, 0.0))), f"drawn to the mean of {size} candidates")


def _clipped(value: float, half: float, method: str) -> Interval:
    return Interval(value, max(0.0, value - half), min(1.0, value + half), method)
