"""Support dynamics: which problems show a success before and after, the null of two samples of one model, and selection bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts, as_pairs, as_whole, check_level
from posttrain.analysis.stats.intervals import Interval, paired_delta_interval
from posttrain.analysis.stats.mixture import MixturePosterior

Number = TypeVar("Number")


class SupportRatios(NamedTuple, Generic[Number]):
    """The ratios of arXiv 2507.14843, of how many problems show a success before and after (P), only after (E) and only before (S).

    A number is NaN where its ratio is 0/0; over many draws each is a mean with its interval.
    """

    srr: Number
    """Support retention rate P/(P+S)."""
    ndr: Number
    """Net discovery rate E/(P+E)."""
    sds: Number
    """Harmonic mean of the two."""
    nscr: Number
    """Net support change rate (E−S)/(P+E+S)."""


def support_dynamics(
    n_before: npt.ArrayLike, c_before: npt.ArrayLike, n_after: npt.ArrayLike, c_after: npt.ArrayLike
) -> SupportRatios[float]:
    """Count problems by whether a success was seen before and after.

    "No success in n samples" depends on n as much as on the model: at 64 samples a model compared with itself has SRR 0.93 and NDR 0.07
    on p ~ Beta(0.3, 1.2). Thin both sides to the same n, and always report `support_dynamics_null` beside these numbers.

    Args:
        n_before: [P] samples before; problems without samples on either side are left out.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.

    Returns:
        Counts and ratios.

    Raises:
        ValueError: Bad counts, or lengths that differ.

    Source: arXiv 2507.14843.
    """
    n0, c0, n1, c1 = as_pairs(n_before, c_before, n_after, c_after)
    known = (n0 > 0) & (n1 > 0)
    return SupportRatios(*(float(ratio[0]) for ratio in _support_ratios(c0[None, known] > 0, c1[None, known] > 0)))


def support_dynamics_null(
    mixture_before: MixturePosterior,
    n_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
    level: float = 0.95,
) -> SupportRatios[Interval]:
    """Simulate the support dynamics of the model before against new samples of itself, at the same numbers of samples.

    The samples before are held fixed, because the observed ratios start from them; each draw takes a rate for every problem from its
    posterior, and new samples at that rate. Rates must come from the posterior under the *fitted* mixing distribution, not from c/n:
    some problems without a success show one when sampled again (regression to the mean: 18 % of those with 0 of 16 for
    p ~ Beta(0.3, 1.2)), and some with a single success lose it. A plug-in rate of zero would hide the former, so that any second sample
    would look like expansion. Simulating both sides would be right on average too, but adds the noise of samples already made.

    Args:
        mixture_before: Fit of the counts before, for the same problems in the same order.
        n_before: [P] samples of the side called before. Where fewer than were fitted, each draw thins the
            counts to that many at random (a hypergeometric draw).
        n_after: [P] samples of the side called after.
        rng: Random generator; not the one, nor a copy of it, that produced the samples compared.
        num_draws: Number of draws.
        level: Share of the draws inside each interval.

    Returns:
        Mean and interval of each ratio; draws in which a ratio is undefined are left out, NaN where all are.

    Raises:
        ValueError: Lengths that differ, or more samples before than were fitted.
    """
    check_level(level)
    before, after = as_whole(n_before, "n_before"), as_whole(n_after, "n_after")
    fitted, correct = mixture_before.num_samples, mixture_before.num_correct
    if before.shape != fitted.shape or after.shape != fitted.shape:
        raise ValueError(f"the mixture holds {fitted.size} problems, before {before.size}, after {after.size}; they must match")
    if np.any(before > fitted) or np.any(before < 0) or np.any(after < 0):
        raise ValueError("n_before must lie between 0 and the samples that were fitted, n_after must not be negative")
    rates = mixture_before.draw_rates(rng=rng, num_draws=num_draws)
    seen_after = rng.binomial(after[None, :], rates) > 0
    whole = np.array_equal(before, fitted)
    thinned = correct[None, :] if whole else rng.hypergeometric(correct, fitted - correct, before, size=rates.shape)
    known = (before > 0) & (after > 0)
    return _ranges(thinned[:, known] > 0, seen_after[:, known], level, "posterior predictive of the model before")


def thin(
    num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, num_kept: npt.ArrayLike, *, rng: np.random.Generator
) -> IntArray:
    """Thin counts at random: draw the successes among fewer samples of each problem (a hypergeometric draw).

    Args:
        num_samples: [P] samples.
        num_correct: [P] successes.
        num_kept: [P] samples to keep.
        rng: Random generator.

    Returns:
        [P] successes among those kept.

    Raises:
        ValueError: Bad counts, lengths that differ, or more kept than there are.
    """
    samples, correct = as_counts(num_samples, num_correct)
    kept = as_whole(num_kept, "num_kept")
    if kept.shape != samples.shape or np.any(kept < 0) or np.any(kept > samples):
        raise ValueError("num_kept must hold a number between 0 and num_samples for every problem")
    return rng.hypergeometric(correct, samples - correct, kept).astype(np.int64)


def support_dynamics_halves(
    num_samples: npt.ArrayLike,
    c_before: npt.ArrayLike,
    c_after: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
    level: float = 0.95,
) -> tuple[SupportRatios[Interval], SupportRatios[Interval]]:
    """Compute support dynamics at half the samples, beside one half of the samples before against the other: a null without a model.

    The ratios depend on n, so before and after are thinned to half as well. Both results are averages over random splits.

    Args:
        num_samples: [P] samples on both sides; problems with fewer than two are left out.
        c_before: [P] successes before.
        c_after: [P] successes after.
        rng: Random generator.
        num_draws: Number of splits.
        level: Share of the splits inside each interval. This is the spread over splits of these samples, which is less than that of
            new samples.

    Returns:
        Before against after, and the null.

    Raises:
        ValueError: Bad counts, lengths that differ, or num_draws below 1.

    Source: the split-half null of support dynamics, whose labels are from arXiv 2507.14843.
    """
    check_level(level)
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    samples, before, _, after = as_pairs(num_samples, c_before, num_samples, c_after)
    known = samples >= 2
    n, before, after = samples[known], before[known], after[known]
    half, size = n // 2, (num_draws, n.size)
    first = rng.hypergeometric(before, n - before, half, size=size)
    second = rng.hypergeometric(before - first, (n - half) - (before - first), half)
    later = rng.hypergeometric(after, n - after, half, size=size)
    value = _ranges(first > 0, later > 0, level, "halves of the samples")
    return value, _ranges(first > 0, second > 0, level, "one half of the samples before against the other")


@dataclass(frozen=True, slots=True)
class NeverSolved:
    """Gain on the problems without a success before."""

    num_problems: float
    """Number of these problems; an average where they were selected on random halves."""
    naive_gain: float
    """Their mean success rate after: the naive gain, since each of them has a rate of 0 in the samples that selected it."""
    gain: Interval
    """Gain against other samples of the model before, which were not used to select."""


def never_solved_gain(
    n_before: npt.ArrayLike,
    c_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    c_after: npt.ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    fresh: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    level: float = 0.95,
) -> NeverSolved:
    """Estimate the gain on problems without a success before, on samples that did not select them.

    Selecting problems and evaluating them on the same samples shows a gain where nothing changed (regression to the mean): of the
    problems with 0 of 16, 18 % show a success when the same model is sampled again. So problems are selected on one half of the samples
    before and compared with the other half, averaged over all ways to halve them: a problem is weighted by the probability that a random
    half shows no success, and all its successes then lie in the other half. With `fresh` (a second run of the model before) they are
    selected on all samples and compared with that run.

    Args:
        n_before: [P] samples before; without `fresh` a problem needs two.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.
        groups: [P] name of the group of each problem, or None.
        fresh: Samples and successes, [P] each, of a second run of the model before.
        level: Confidence.

    Returns:
        NaN where no problem is selected.

    Raises:
        ValueError: Bad counts or lengths that differ.
    """
    n0, c0, n1, c1 = as_pairs(n_before, c_before, n_after, c_after)
    if fresh is None:
        half = n0 // 2
        # C(n−c, h) / C(n, h), the probability that h of n samples hold none of c successes.
        possible = (half > 0) & (c0 <= n0 - half) & (n1 > 0)
        n, c, h = (array[possible].astype(np.float64) for array in (n0, c0, half))
        weight = np.zeros(n0.size)
        weight[possible] = np.exp(
            scipy.special.gammaln(n - c + 1)
            - scipy.special.gammaln(n - c - h + 1)
            - scipy.special.gammaln(n + 1)
            + scipy.special.gammaln(n - h + 1)
        )
        judged_n, judged_c = n0 - half, c0
        method = "selected on one half of the samples before, evaluated on the other"
    else:
        judged_n, judged_c = as_counts(*fresh)
        if judged_n.shape != n0.shape:
            raise ValueError(f"fresh holds {judged_n.size} problems, the others {n0.size}; they are paired by problem")
        weight = ((n0 > 0) & (c0 == 0) & (n1 > 0) & (judged_n > 0)).astype(np.float64)
        method = "selected on the samples before, evaluated on a second run of the model before"
    used = weight > 0
    if not np.any(used):
        return NeverSolved(0.0, np.nan, Interval(np.nan, np.nan, np.nan, method))
    again, after = judged_c[used] / judged_n[used], c1[used] / n1[used]
    kept = None if groups is None else [group for group, keep in zip(groups, used, strict=True) if keep]
    gain = paired_delta_interval(again, after, kept, weights=weight[used], level=level)
    naive = float(np.average(after, weights=weight[used]))
    return NeverSolved(float(weight.sum()), naive, Interval(gain.estimate, gain.low, gain.high, f"{method}; {gain.method}"))


def _support_ratios(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> SupportRatios[FloatArray]:
    """Return the ratios [D] of each row of [D, P] booleans."""
    shown = ((before, after), (~before, after), (before, ~after))
    preserved, expanded, attrited = (np.sum(first & second, axis=1).astype(np.float64) for first, second in shown)
    srr = _ratio(preserved, preserved + attrited)
    ndr = _ratio(expanded, preserved + expanded)
    sds = _ratio(2.0 * srr * ndr, srr + ndr)
    return SupportRatios(srr, ndr, sds, _ratio(expanded - attrited, preserved + expanded + attrited))


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    defined = bottom != 0.0
    return np.where(defined, top / np.where(defined, bottom, 1.0), np.nan)


def _ranges(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], level: float, method: str) -> SupportRatios[Interval]:
    """Summarize each ratio over the draws [D, P] by mean and quantiles."""
    return SupportRatios(*(_summary(ratio, level, method) for ratio in _support_ratios(before, after)))


def _summary(draws: FloatArray, level: float, method: str) -> Interval:
    draws = draws[~np.isnan(draws)]
    if draws.size == 0:
        return Interval(np.nan, np.nan, np.nan, method)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(draws.mean()), float(low), float(high), method)
