"""Which problems get the samples of the next round: those whose rates leave most doubt about what is to be decided."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import still_uncertain
from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.thresholds import SamplingThresholds, Thresholds
from posttrain.diagnose.types import Bottleneck

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def label_doubt(posterior: LabelPosterior, epsilon: float, thresholds: Thresholds) -> Floats:
    """Return how much doubt [P] each problem leaves in the margin that decides the label.

    The label is `mastered` or not by the mean rate, and else depends on how many problems are unreliable less how many are out of support.
    Whichever margin is closer to zero, counted in posterior standard deviations, is the one to sharpen.
    """
    rates = posterior.mixture.grid.rates
    if posterior.shares[Bottleneck.MASTERED] > 0.5 or _distance_from_zero(
        posterior.mean - thresholds.mastered
    ) < _distance_from_zero((posterior.counts[:, 1] - posterior.counts[:, 0]).astype(np.float64)):
        doubt = posterior.mixture.pair_posterior @ (rates * (1.0 - rates))
        return np.asarray(np.sqrt(np.maximum(doubt, 0.0)))[posterior.mixture.place]
    balance = ((rates >= epsilon) & (rates < thresholds.mastered)).astype(np.float64) - (rates < epsilon)
    moments = posterior.mixture.pair_posterior @ np.stack([balance, balance**2], axis=1)
    doubt = np.sqrt(np.maximum(moments[:, 1] - moments[:, 0] ** 2, 0.0))
    return np.asarray(doubt)[posterior.mixture.place]


def _distance_from_zero(margin: Floats) -> float:
    """Return how many posterior standard deviations a margin [D], given as posterior draws, lies away from zero."""
    return float(abs(margin.mean()) / max(margin.std(), 1e-12))


def pass_at_k_doubt(posterior: LabelPosterior, k: int) -> Floats:
    """Return how far [P] one sample more of each problem is expected to move pass@k.

    It is the slope of 1 − (1−p)^k times the standard deviation of an outcome.
    """
    rates = posterior.mixture.grid.rates
    slope = k * (1.0 - rates) ** (k - 1)
    doubt: Floats = np.sqrt(posterior.mixture.pair_posterior @ (slope**2 * rates * (1.0 - rates)))[posterior.mixture.place]
    return doubt


def round_size(num_sampled: Ints, doubt: Floats, thresholds: SamplingThresholds) -> int:
    """Return the samples of a round for problems [P] with these numbers of samples and this doubt."""
    return max(thresholds.smallest_round, int(thresholds.growth * num_sampled[still_uncertain(doubt)].sum()))


def spread_evenly(num_problems: int, total: int) -> Ints:
    """Return how many [P] of `total` samples each problem gets; the first ones get one more where they do not divide."""
    extra = np.full(num_problems, total // num_problems, dtype=np.int64)
    extra[: total % num_problems] += 1
    return extra
