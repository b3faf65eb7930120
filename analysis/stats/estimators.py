"""Estimates per problem from success counts: pass@k, Cover@τ, answer entropy.

They are unbiased only if the number of samples was fixed in advance; after adaptive sampling use `mixture`, which relies on the likelihood
(arXiv 2510.05197).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, as_counts, check_k


def pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int) -> FloatArray:
    """Estimate without bias the probability that at least one of k samples is right: 1 − C(n−c, k) / C(n, k).

    Computed from C(n−c, k) / C(n, k) = ∏_{i<c} (1 − k/(n−i)) in logarithms, so that it is exact to rounding for any n.

    Args:
        num_samples: [P] samples n with a known outcome.
        num_correct: [P] successes c among them.
        k: Attempts, at least 1.

    Returns:
        [P] estimates in [0, 1]; NaN where n < k, where no unbiased estimate exists.

    Raises:
        ValueError: Bad counts, or k below 1.

    Source: Chen et al. 2021, arXiv 2107.03374.
    """
    samples, correct = as_counts(num_samples, num_correct)
    check_k(k)
    result = np.full(samples.shape, np.nan)
    for n in np.unique(samples[samples >= k]):
        rows = samples == n
        # Index c of this table is log(C(n−c, k) / C(n, k)); from c = n − k + 1 on every subset of k holds a success.
        log_miss = np.concatenate([[0.0], np.cumsum(np.log1p(-k / (n - np.arange(n - k))))])
        c = correct[rows]
        result[rows] = np.where(c <= n - k, -np.expm1(log_miss[np.minimum(c, n - k)]), 1.0)
    return result


def cover_at_tau(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, tau: float) -> FloatArray:
    """Return whether each problem's plug-in success rate reaches τ; the mean over problems is Cover@τ.

    The plug-in is biased at small n near τ. `MixturePosterior.draw_interval_counts` gives the share of problems without that bias.

    Args:
        num_samples: [P] samples n.
        num_correct: [P] successes c.
        tau: Success rate, in (0, 1].

    Returns:
        [P] 1.0 where c/n ≥ τ, 0.0 where not, NaN without samples.

    Raises:
        ValueError: Bad counts or tau outside (0, 1].

    Source: arXiv 2510.08325.
    """
    samples, correct = as_counts(num_samples, num_correct)
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"tau must lie in (0, 1], got {tau}")
    reached = (correct >= np.ceil(tau * samples - 1e-9)).astype(np.float64)
    return np.where(samples > 0, reached, np.nan)


def answer_entropy(counts: npt.ArrayLike) -> FloatArray:
    """Compute the plug-in entropy of the given answers, in nats.

    It is too low by about (A−1)/(2n) for A answers and n samples, so compare runs only at the same n. Answers are used because the
    entropy of tokens can rise while that of answers falls (arXiv 2507.14843).

    Args:
        counts: [..., A] count of each answer.

    Returns:
        [...] entropies, at least 0; NaN where nothing was counted.

    Raises:
        ValueError: A count is negative or there is no axis.
    """
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim == 0 or np.any(array < 0):
        raise ValueError("counts must have at least one axis and no negative number")
    total = array.sum(axis=-1, keepdims=True)
    share = array / np.where(total > 0, total, 1.0)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
    return np.where(total[..., 0] > 0, np.maximum(entropy, 0.0), np.nan)


def k_grid(max_n: int, primary_k: int) -> list[int]:
    """List the k at which a pass@k curve is shown: powers of two up to `max_n` and the primary k, sorted.

    Args:
        max_n: The largest number of samples, at least 0.
        primary_k: The k chosen in advance; included even where it exceeds `max_n`.

    Raises:
        ValueError: primary_k below 1 or max_n below 0.
    """
    check_k(primary_k)
    if max_n < 0:
        raise ValueError(f"max_n must be at least 0, got {max_n}")
    return sorted({primary_k, *(2**power for power in range(max_n.bit_length()))})
