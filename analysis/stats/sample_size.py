"""Required samples and problems, and minimum detectable effects."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import as_counts, check_level


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


def variance_components(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike) -> tuple[float, float]:
    """Split the variance of success rates into the variance between problems and that of one sample within a problem.

    Args:
        num_samples: [P] samples; problems with fewer than two are left out.
        num_correct: [P] successes.

    Returns:
        The variance of p_i (not below 0) and the mean of p_i (1 − p_i), both unbiased up to the cut at 0; NaN where fewer than
        two problems (one, for the second) are left.

    Raises:
        ValueError: Bad counts.
    """
    samples, correct = as_counts(num_samples, num_correct)
    n, c = samples[samples >= 2].astype(np.float64), correct[samples >= 2].astype(np.float64)
    if n.size == 0:
        return math.nan, math.nan
    within = c * (n - c) / (n * (n - 1.0))
    if n.size == 1:
        return math.nan, float(within[0])
    between = float(np.var(c / n, ddof=1) - np.mean(within / n))
    return max(0.0, between), float(within.mean())


def samples_for_half_width(
    half_width: float,
    *,
    between_variance: float,
    within_variance: float,
    num_problems: int,
    level: float = 0.95,
    power: float = 0.5,
) -> float:
    """Compute the samples per problem for an interval of the mean rate of a given half width: z √((B + W/n) / P) ≤ h.

    With a power above a half, the interval leaves out a number at the distance h in that share of cases:
    z √((B + W/n) / P) + z_power √(W/n / P) ≤ h, since more samples of the same problems remove the second part alone.

    Args:
        half_width: Desired half width h.
        between_variance: Variance B of rates between problems; 0 for the mean over *these* problems.
        within_variance: Mean W of p (1 − p).
        num_problems: P.
        level: Confidence.
        power: At least 0.5, where the estimate alone has to reach the distance.

    Returns:
        A whole number, at least 1; infinity where the problems are too few for any number of samples.

    Raises:
        ValueError: Arguments out of range.

    Source: variance of a mean over questions, arXiv 2411.00640.
    """
    _check_variances(between_variance, within_variance, num_problems)
    if not half_width > 0.0:
        raise ValueError(f"half_width must be above 0, got {half_width}")
    z, z_power, reach = _z(level), _z_power(power), half_width * math.sqrt(num_problems)
    left = reach**2 - z**2 * between_variance
    if left <= 0.0:
        return 1.0 if left == within_variance == 0.0 else math.inf
    # √(W/n), the positive root of z² (B + x²) = (reach − z_power x)², written so that equal z do no harm.
    root = left / (reach * z_power + math.sqrt((reach * z_power) ** 2 + (z**2 - z_power**2) * left))
    return float(max(1, math.ceil(within_variance / root**2 - 1e-9)))


def problems_for_half_width(
    half_width: float,
    *,
    between_variance: float,
    within_variance: float,
    num_samples: int,
    level: float = 0.95,
    power: float = 0.5,
) -> int:
    """Compute the problems for an interval of the mean rate of a given half width with n samples each: P = ⌈(z/h)² (B + W/n)⌉.

    With a power above a half, z is z_level + z_power: the interval leaves out a number at the distance h in that share of cases.

    Args:
        half_width: Desired half width h.
        between_variance: Variance B of rates between problems.
        within_variance: Mean W of p (1 − p).
        num_samples: n.
        level: Confidence.
        power: At least 0.5.

    Raises:
        ValueError: Arguments out of range.
    """
    _check_variances(between_variance, within_variance, num_samples)
    if not half_width > 0.0:
        raise ValueError(f"half_width must be above 0, got {half_width}")
    return max(
        1,
        math.ceil(((_z(level) + _z_power(power)) / half_width) ** 2 * (between_variance + within_variance / num_samples) - 1e-9),
    )


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
