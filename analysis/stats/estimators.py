"""What a table of successes says about each problem: pass@k and its kin, coverage, diversity of answers.

All of these are plug-in or unbiased estimates per problem. They are unbiased only where the number of samples was fixed in
advance; after adaptive sampling use `mixture`, which goes by the likelihood (arXiv 2510.05197).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, as_counts, as_whole, check_k


def pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int) -> FloatArray:
    """Probability that at least one of k samples is right, without bias: 1 − C(n−c, k) / C(n, k).

    Computed from C(n−c, k) / C(n, k) = ∏_{i<c} (1 − k/(n−i)) in logarithms, so that it is exact to rounding for any n.

    Args:
        num_samples: [P] samples n with a known outcome.
        num_correct: [P] successes c among them.
        k: attempts, at least 1.

    Returns:
        [P] estimates in [0, 1]; NaN where n < k, where no unbiased estimate exists.

    Raises:
        ValueError: bad counts, or k below 1.

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


def g_pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int, tau: float) -> FloatArray:
    """Probability that at least max(1, ⌈τk⌉) of k samples are right, without bias.

    Args:
        num_samples: [P] samples n.
        num_correct: [P] successes c.
        k: samples drawn, at least 1.
        tau: share of the k that must be right, in [0, 1]. 0 is pass@k, 1 is pass^k.

    Returns:
        [P] estimates in [0, 1]; NaN where n < k.

    Raises:
        ValueError: bad counts, k below 1 or tau outside [0, 1].

    Source: G-Pass@k_τ, arXiv 2412.13147.
    """
    samples, correct = as_counts(num_samples, num_correct)
    check_k(k)
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must lie in [0, 1], got {tau}")
    # A product such as 0.7 * 10 may land a hair above the whole number it stands for.
    needed = max(1, math.ceil(tau * k - 1e-9))
    result = np.full(samples.shape, np.nan)
    enough = samples >= k
    if np.any(enough):
        result[enough] = np.clip(scipy.stats.hypergeom.sf(needed - 1, samples[enough], correct[enough], k), 0.0, 1.0)
    return result


def pass_hat_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, k: int) -> FloatArray:
    """Probability that all of k samples are right, without bias: C(c, k) / C(n, k), written pass^k.

    Args:
        num_samples: [P] samples n.
        num_correct: [P] successes c.
        k: samples drawn, at least 1.

    Returns:
        [P] estimates in [0, 1]; NaN where n < k.

    Raises:
        ValueError: bad counts, or k below 1.
    """
    samples, correct = as_counts(num_samples, num_correct)
    # All k right is the opposite of at least one of them wrong.
    return 1.0 - pass_at_k(samples, samples - correct, k)


def cover_at_tau(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, tau: float) -> FloatArray:
    """Whether a problem's success rate reaches τ by its plug-in estimate; the mean over problems is Cover@τ.

    The plug-in is biased at small n near τ. `MixturePosterior.draw_interval_counts` gives the share of problems without that bias.

    Args:
        num_samples: [P] samples n.
        num_correct: [P] successes c.
        tau: success rate wanted, in (0, 1].

    Returns:
        [P] 1.0 where c/n ≥ τ, 0.0 where not, NaN without samples.

    Raises:
        ValueError: bad counts or tau outside (0, 1].

    Source: arXiv 2510.08325.
    """
    samples, correct = as_counts(num_samples, num_correct)
    if not 0.0 < tau <= 1.0:
        raise ValueError(f"tau must lie in (0, 1], got {tau}")
    reached = (correct >= np.ceil(tau * samples - 1e-9)).astype(np.float64)
    return np.where(samples > 0, reached, np.nan)


def coverage_profile(nll_path: npt.ArrayLike, log_n_grid: npt.ArrayLike, reference_nll: npt.ArrayLike = 0.0) -> FloatArray:
    """Share of reference paths that would need at least N draws: Cov_N, lower is better.

    The definition is P[μ(y|x)/π(y|x) ≥ N] with y drawn from the data policy μ. Where μ's own likelihood is unknown it is taken as
    a constant, and the profile is P[−log π(y|x) ≥ log N + c].

    Args:
        nll_path: [R] summed negative log-likelihood of each reference path under the policy, nats; NaN is left out.
        log_n_grid: [N] values of log N, nats.
        reference_nll: [R] or one number c: the same paths' negative log-likelihood under μ, nats.

    Returns:
        [N] shares in [0, 1], not increasing in N; NaN where there is no path.

    Raises:
        ValueError: shapes do not fit.

    Source: arXiv 2510.15020.
    """
    nll = np.asarray(nll_path, dtype=np.float64)
    grid = np.asarray(log_n_grid, dtype=np.float64)
    reference = np.asarray(reference_nll, dtype=np.float64)
    if nll.ndim != 1 or grid.ndim != 1 or reference.shape not in ((), nll.shape):
        raise ValueError(
            f"expected nll_path [R], log_n_grid [N], reference_nll [R] or (); got {nll.shape}, {grid.shape}, {reference.shape}"
        )
    excess = nll - reference
    excess = excess[~np.isnan(excess)]
    if excess.size == 0:
        return np.full(grid.shape, np.nan)
    shares: FloatArray = (excess[None, :] >= grid[:, None]).mean(axis=1)
    return shares


def answer_entropy(counts: npt.ArrayLike) -> FloatArray:
    """Plug-in entropy of the answers that were given, in nats.

    It is too low by about (A−1)/(2n) for A answers and n samples, so compare runs only at the same n. Entropy of *answers*,
    because that of tokens can rise while this one falls (arXiv 2507.14843).

    Args:
        counts: [..., A] how often each answer came.

    Returns:
        [...] entropies, at least 0; NaN where nothing was counted.

    Raises:
        ValueError: a count is negative or there is no axis.
    """
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim == 0 or np.any(array < 0):
        raise ValueError("counts must have at least one axis and no negative number")
    total = array.sum(axis=-1, keepdims=True)
    share = array / np.where(total > 0, total, 1.0)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
    return np.where(total[..., 0] > 0, np.maximum(entropy, 0.0), np.nan)


def effective_answers(counts: npt.ArrayLike) -> FloatArray:
    """Effective number of different answers: exp of their entropy. 1 where all samples agree.

    Args:
        counts: [..., A] how often each answer came.

    Returns:
        [...] numbers in [1, A]; NaN where nothing was counted.

    Raises:
        ValueError: a count is negative.
    """
    return np.exp(answer_entropy(counts))


def guessing_baseline(num_answers: npt.ArrayLike, k: int) -> FloatArray:
    """Pass@k of somebody who guesses uniformly among m answers: 1 − (1 − 1/m)^k.

    Args:
        num_answers: [...] size m of the answer space, at least 1; infinity gives 0.
        k: attempts, at least 1.

    Returns:
        [...] probabilities.

    Raises:
        ValueError: m or k below 1.

    Source: why pass@k at large k rewards guessing, arXiv 2510.08325.
    """
    size = np.asarray(num_answers, dtype=np.float64)
    check_k(k)
    if not np.all(size >= 1):
        raise ValueError("num_answers must be at least 1")
    inverse = 1.0 / size
    sure = inverse >= 1.0
    return np.where(sure, 1.0, -np.expm1(k * np.log1p(-np.where(sure, 0.0, inverse))))


def missing_bounds(
    num_correct: npt.ArrayLike, num_samples: npt.ArrayLike, num_missing: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Success rates if all samples without an outcome had failed, and if all had passed.

    Args:
        num_correct: [P] successes.
        num_samples: [P] samples with a known outcome.
        num_missing: [P] samples without one (a timeout, a verifier error), not among `num_samples`.

    Returns:
        Two arrays [P], low and high; NaN where nothing was drawn.

    Raises:
        ValueError: bad counts.
    """
    samples, correct = as_counts(num_samples, num_correct)
    missing = as_whole(num_missing, "num_missing")
    if missing.shape != samples.shape or np.any(missing < 0):
        raise ValueError("num_missing must hold one count of at least 0 per problem")
    total = samples + missing
    safe = np.where(total > 0, total, 1)
    undefined = np.where(total > 0, 0.0, np.nan)
    return correct / safe + undefined, (correct + missing) / safe + undefined


def k_grid(max_n: int, primary_k: int) -> list[int]:
    """The k at which a pass@k curve is shown: powers of two up to `max_n`, and the primary k, sorted.

    Args:
        max_n: the largest number of samples, at least 0.
        primary_k: the k chosen in advance; it is in the grid even where it exceeds `max_n`.

    Raises:
        ValueError: primary_k below 1 or max_n below 0.
    """
    check_k(primary_k)
    if max_n < 0:
        raise ValueError(f"max_n must be at least 0, got {max_n}")
    return sorted({primary_k, *(2**power for power in range(max_n.bit_length()))})
