"""Required samples and minimum detectable effects, at a two-sided error of 5 % and a power of 80 %."""

from __future__ import annotations

import math

import numpy as np
import scipy

from posttrain.analysis.stats.arrays import check_level

POWER = 0.8


def samples_to_resolve(epsilon: float) -> int:
    """Return the samples without a success after which a rate above ε is rejected with 95 % confidence: ⌈−ln .05 / ε⌉.

    Args:
        epsilon: Success rate, in (0, 1].

    Raises:
        ValueError: It lies outside.

    Source: arXiv 2507.14843.
    """
    if not 0.0 < epsilon <= 1.0:
        raise ValueError(f"epsilon must lie in (0, 1], got {epsilon}")
    return math.ceil(-math.log(0.05) / epsilon - 1e-9)


def detectable_delta(num_problems: int, num_samples: int, within_variance: float) -> float:
    """Compute the minimum detectable mean change of the success rate, paired by problem, where every problem changes by the same amount.

    (z_.975 + z_.8) √(2 W / (n P)).

    Args:
        num_problems: P, at least 1.
        num_samples: n per problem, before and after each, at least 1.
        within_variance: W, the mean of p (1 − p).

    Raises:
        ValueError: Arguments out of range.
    """
    if min(num_problems, num_samples) < 1 or not 0.0 <= within_variance <= 0.25:
        raise ValueError(
            f"expected counts from 1 on and a variance in [0, 1/4]: {num_problems}, {num_samples}, {within_variance}"
        )
    quantiles = float(scipy.special.ndtri(0.975)) + float(scipy.special.ndtri(POWER))
    return quantiles * math.sqrt(2.0 * within_variance / (num_samples * num_problems))


def detectable_rise(num_samples: int, *, alpha: float = 0.05) -> float:
    """Compute the smallest rate after, of a problem that failed in all samples before, that a one-sided Fisher test detects.

    Report it beside every count of expanded problems: smaller rates could not have been detected. Under Benjamini-Hochberg with few
    true changes among P problems, set alpha near 0.05 times half the share of changes.

    Args:
        num_samples: Samples before, and as many after; at least 1.
        alpha: Level of the test.

    Returns:
        A rate in (0, 1]; NaN where not even successes alone would be significant.

    Raises:
        ValueError: Arguments out of range.
    """
    check_level(alpha)
    if num_samples < 1:
        raise ValueError(f"expected at least one sample on each side, got {num_samples}")
    successes = np.arange(num_samples + 1)
    p_values = scipy.stats.hypergeom.sf(successes - 1, 2 * num_samples, successes, num_samples)
    significant = np.flatnonzero(np.asarray(p_values) <= alpha)
    if significant.size == 0:
        return math.nan
    needed = int(significant[0])
    # P[Binomial(n, p) ≥ c] = I_p(c, n − c + 1), solved for p.
    return float(scipy.special.betaincinv(needed, num_samples - needed + 1, POWER))
