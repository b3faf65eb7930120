"""Noisy bisection: the smallest rung of a ladder from which the success rate is sufficient.

Rungs 1, ..., R give increasing help. From some rung K on (or from none) the success rate is at least `sufficient`; below K it is lower.
Trials are noisy, so K has a posterior, and the next trials go to the rung that splits it best (probabilistic bisection: Horstein, IEEE
Trans. Inf. Theory 9, 1963; Waeber, Frazier and Henderson, arXiv 1010.3480). The rates on either side are unknown too: each has a
truncated Beta(½, ½) prior, so counts are beta-binomial. Monotonicity is only a prior: every rung has a small probability of lying on
the wrong side of K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts

NONE_PRIOR = 0.25
"""Prior probability that no rung suffices; the remaining mass is shared equally by the rungs."""
ODD_RUNG = 0.05
"""Prior probability that a rung lies on the wrong side of K: more help sometimes lowers the rate."""
_POINTS = 64
"""Quadrature points of equal mass for each rate prior: more points change no posterior by more than 0.005 up to 48 trials."""


@dataclass(frozen=True, slots=True)
class RungPosterior:
    """Posterior of a ladder of R rungs given its trials."""

    at: FloatArray
    """[R] probability that the success rate at each rung is at least `sufficient`."""
    anywhere: float
    """Probability that at least one rung is sufficient."""

    def smallest(self, sure: float) -> int | None:
        """Return the first rung that is sufficient with at least this probability; None if there is none."""
        (found,) = np.nonzero(self.at >= sure)
        return int(found[0]) if found.size else None

    def next_rung(self, num_samples: npt.ArrayLike, sure: float) -> int | None:
        """Return the rung to try next: the most undecided one, and among equals the one with the fewest trials.

        Args:
            num_samples: [R] trials so far.
            sure: Probability from which a rung counts as decided, either way.

        Returns:
            None where every rung is decided.
        """
        doubt = np.abs(self.at - 0.5)
        order = np.lexsort((np.asarray(num_samples), np.round(doubt, 6)))
        first = int(order[0])
        return first if doubt[first] < sure - 0.5 else None


def rung_posterior(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, *, sufficient: float) -> RungPosterior:
    """Compute the posterior of which rungs of one ladder suffice.

    Args:
        num_samples: [R] trials at each rung; adaptive sampling is allowed, since only the likelihood matters.
        num_correct: [R] successes.
        sufficient: Rate inside (0, 1) from which a rung suffices.

    Returns:
        One probability per rung, and one for the ladder.

    Raises:
        ValueError: Bad counts, no rung, or a rate outside (0, 1).
    """
    n, c = as_counts(num_samples, num_correct)
    if not n.size:
        raise ValueError("a ladder needs at least one rung")
    if not 0.0 < sufficient < 1.0:
        raise ValueError(f"sufficient must lie between 0 and 1, got {sufficient}")
    below, above = _evidence(n, c, sufficient)
    # [R] likelihood of a rung's counts below K and from K on; [2, R] probability that it is sufficient in either case.
    low, high = (1 - ODD_RUNG) * below + ODD_RUNG * above, (1 - ODD_RUNG) * above + ODD_RUNG * below
    suffices = np.stack([ODD_RUNG * above / low, (1 - ODD_RUNG) * above / high])
    num_rungs = n.size
    upper = np.arange(num_rungs)[None, :] >= np.arange(num_rungs + 1)[:, None]  # [K, R], the last row is "none"
    log_prior = np.log(np.append(np.full(num_rungs, (1 - NONE_PRIOR) / num_rungs), NONE_PRIOR))
    log_weight = log_prior + np.where(upper, np.log(high), np.log(low)).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    chances = np.where(upper, suffices[1], suffices[0])
    return RungPosterior(at=weight @ chances, anywhere=float(weight @ (1.0 - np.prod(1.0 - chances, axis=1))))


def _evidence(n: IntArray, c: IntArray, sufficient: float) -> tuple[FloatArray, FloatArray]:
    """[R] mean likelihood of the counts over rates below `sufficient`, and over rates above; both on one scale."""
    edge = 2.0 / np.pi * np.arcsin(np.sqrt(sufficient))  # distribution function of Beta(½, ½)
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    shares = np.stack([edge * middles, edge + (1.0 - edge) * middles])
    rates = np.sin(np.pi / 2.0 * shares) ** 2
    log_likelihood = c[:, None, None] * np.log(rates) + (n - c)[:, None, None] * np.log1p(-rates)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=(1, 2), keepdims=True)).mean(axis=2)
    return likelihood[:, 0], likelihood[:, 1]
