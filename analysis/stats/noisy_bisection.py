"""The smallest rung of a ladder from which trials succeed often enough, found by noisy bisection.

Rungs 1, ..., R are ever more help. From some rung K on (or from none) the success rate is at least `sufficient`; below it lies under
it. Trials are noisy, so K has a posterior, and the next trials go where they split it best (probabilistic bisection: Horstein, IEEE
Trans. Inf. Theory 9, 1963; Waeber, Frazier and Henderson, arXiv 1010.3480). Rates on either side are not known either: each has a
truncated Beta(½, ½) law, so counts are beta-binomial. That help only helps is a prior and no dogma: every rung has a small chance of
lying on the wrong side of K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts

NONE_PRIOR = 0.25
"""Prior probability that no rung suffices; the rest is shared equally by the rungs."""
ODD_RUNG = 0.05
"""Prior probability that a rung lies on the wrong side of K: more help is now and then less."""
_POINTS = 64
"""Points of each law of rates, of equal mass: finer ones move no posterior by more than .005 up to 48 trials."""


@dataclass(frozen=True, slots=True)
class RungPosterior:
    """What trials say about a ladder of R rungs."""

    at: FloatArray
    """[R] probability that the success rate at each rung is at least `sufficient`."""
    anywhere: float
    """Probability that it is at one rung at least."""

    def smallest(self, sure: float) -> int | None:
        """The first rung whose rate is sufficient with this probability; None where there is none."""
        (found,) = np.nonzero(self.at >= sure)
        return int(found[0]) if found.size else None

    def next_rung(self, num_samples: npt.ArrayLike, sure: float) -> int | None:
        """Where to try next: the rung that is most open, of those that are open alike the one with fewest trials.

        Args:
            num_samples: [R] trials so far.
            sure: probability from which a rung counts as settled, to either side.

        Returns:
            None where every rung is settled.
        """
        doubt = np.abs(self.at - 0.5)
        order = np.lexsort((np.asarray(num_samples), np.round(doubt, 6)))
        first = int(order[0])
        return first if doubt[first] < sure - 0.5 else None


def rung_posterior(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, *, sufficient: float) -> RungPosterior:
    """Posterior of which rungs of one ladder suffice.

    Args:
        num_samples: [R] trials at each rung, chosen by looking or not: only what was seen counts.
        num_correct: [R] successes.
        sufficient: rate inside (0, 1) from which a rung suffices.

    Returns:
        One probability per rung, and one for the ladder.

    Raises:
        ValueError: bad counts, no rung, or a rate outside (0, 1).
    """
    n, c = as_counts(num_samples, num_correct)
    if not n.size:
        raise ValueError("a ladder needs at least one rung")
    if not 0.0 < sufficient < 1.0:
        raise ValueError(f"sufficient must lie between 0 and 1, got {sufficient}")
    below, above = _evidence(n, c, sufficient)
    # [R] likelihood of a rung's counts, were it below K or not; [2, R] chance that it is sufficient in either case.
    low, high = (1 - ODD_RUNG) * below + ODD_RUNG * above, (1 - ODD_RUNG) * above + ODD_RUNG * below
    suffices = np.stack([ODD_RUNG * above / low, (1 - ODD_RUNG) * above / high])
    num_rungs = n.size
    upper = np.arange(num_rungs)[None, :] >= np.arange(num_rungs + 1)[:, None]  # [K, R], the last row being "none"
    log_prior = np.log(np.append(np.full(num_rungs, (1 - NONE_PRIOR) / num_rungs), NONE_PRIOR))
    log_weight = log_prior + np.where(upper, np.log(high), np.log(low)).sum(axis=1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    chances = np.where(upper, suffices[1], suffices[0])
    return RungPosterior(at=weight @ chances, anywhere=float(weight @ (1.0 - np.prod(1.0 - chances, axis=1))))


def _evidence(n: IntArray, c: IntArray, sufficient: float) -> tuple[FloatArray, FloatArray]:
    """[R] mean likelihood of the counts over rates below `sufficient`, and over rates from it on; scaled alike."""
    edge = 2.0 / np.pi * np.arcsin(np.sqrt(sufficient))  # distribution function of Beta(½, ½)
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    shares = np.stack([edge * middles, edge + (1.0 - edge) * middles])
    rates = np.sin(np.pi / 2.0 * shares) ** 2
    log_likelihood = c[:, None, None] * np.log(rates) + (n - c)[:, None, None] * np.log1p(-rates)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=(1, 2), keepdims=True)).mean(axis=2)
    return likelihood[:, 0], likelihood[:, 1]
