"""Required samples and problems, and minimum detectable effects."""

from __future__ import annotations

import math

import numpy as np
import scipy

from posttrain.analysis.stats.arrays import check_level


def samples_to_resolve(epsilon: float, zeta: float = 0.05) -> int:
    """Return the samples without a success after which a rate above ε is rejected with confidence 1 − ζ: ⌈−ln ζ / ε⌉.

    Args:
        epsilon: Success rate, in (0, 1].
        zeta: Probability of missing a rate of ε, in (0, 1).

    Raises:
        ValueError: Arguments out of range.

    Source: arXiv 2507.14843.
    """
    if not 0.0 < epsilon <= 1.0 or not 0.0 < zeta < 1.0:
        raise ValueError(f"epsilon must lie in (0, 1] and zeta in (0, 1), got {epsilon} and {zeta}")
    return math.ceil(-math.log(zeta) / epsilon - 1e-9)


def detectable_delta(
    *,
    num_problems: int,
    num_samples: int,
    delta_variance: float,
    within_variance_before: float,
    within_variance_after: float,
    level: float = 0.95,
    power: float = 0.8,
) -> float:
    """Compute the minimum detectable mean paired change of the success rate at the given power.

    (z_level + z_power) √((V + (W₀ + W₁)/n) / P), where V is the variance between problems of the true change: 0 if all change
    by the same amount.

    Args:
        num_problems: P.
        num_samples: n per problem, before and after each.
        delta_variance: V.
        within_variance_before: Mean W₀ of p (1 − p) before.
        within_variance_after: W₁ after.
        level: 1 − two-sided error.
        power: Probability of detecting the change, in (0, 1).

    Raises:
        ValueError: Arguments out of range.
    """
    _check_variances(delta_variance, within_variance_before, num_problems)
    _check_variances(0.0, within_variance_after, num_samples)
    check_level(power)
    variance = (delta_variance + (within_variance_before + within_variance_after) / num_samples) / num_problems
    return (_z(level) + float(scipy.stats.norm.ppf(power))) * math.sqrt(variance)


def detectable_rise(
    num_before: int, num_after: int, *, num_correct_before: int = 0, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Compute the smallest rate after that a one-sided Fisher test of one problem detects at the given power.

    Report it beside every count of expanded problems: smaller rates could not have been detected. Under Benjamini-Hochberg with few
    true changes among P problems, set alpha near 0.05 times half the share of changes.

    Args:
        num_before: Samples before.
        num_after: Samples after.
        num_correct_before: Successes before.
        alpha: Level of the test.
        power: Probability of detecting the rise, in (0, 1).

    Returns:
        A rate in (0, 1]; NaN where not even `num_after` successes would be significant.

    Raises:
        ValueError: Arguments out of range.
    """
    check_level(power)
    check_level(alpha)
    if num_after < 1 or num_before < 1 or not 0 <= num_correct_before <= num_before:
        raise ValueError("expected at least one sample on each side and no more successes than samples")
    successes = np.arange(num_after + 1)
    p_values = scipy.stats.hypergeom.sf(successes - 1, num_before + num_after, num_correct_before + successes, num_after)
    significant = np.flatnonzero(np.asarray(p_values) <= alpha)
    if significant.size == 0:
        return math.nan
    needed = int(significant[0])
    # P[Binomial(n, p) ≥ c] = I_p(c, n − c + 1), solved for p.
    return float(scipy.special.betaincinv(needed, num_after - needed + 1, power))


def _z(level: float) -> float:
    check_level(level)
    return float(scipy.stats.norm.ppf(0.5 + level / 2))


def _z_power(power: float) -> float:
    if not 0.5 <= power < 1.0:
        raise ValueError(f"power must be at least 0.5 and below 1, got {power}")
    return float(scipy.stats.norm.ppf(power))


def _check_variances(between: float, within: float, count: int) -> None:
    if not (between >= 0.0 and within >= 0.0):
        raise ValueError(f"variances must not be negative, got {between} and {within}")
    if count < 1:
        raise ValueError(f"there must be at least one problem and one sample, got {count}")
