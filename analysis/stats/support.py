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

Number = TypeVar("Number")


class SupportRatios(NamedTuple, Generic[Number]):
    """The ratios of arXiv 2507.14843, of how many problems show a success before and after (P), only after (E) and only before (S).

    A number is NaN where its ratio is 0/0; over many draws each is a mean with its range.
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
    first, last = c0[known] > 0, c1[known] > 0
    counts = (np.array([np.sum(both)], dtype=np.float64) for both in (first & last, ~first & last, first & ~last))
    return SupportRatios(*(float(ratio[0]) for ratio in _support_ratios(*counts)))


def support_dynamics_null(
    n_before: npt.ArrayLike,
    c_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    c_after: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
    level: float = 0.95,
) -> SupportRatios[Interval]:
    """Draw the support dynamics of one model sampled twice, by dealing the successes of every problem anew between the two sides.

    If no rate changed, the samples of a problem are exchangeable: given its total of successes, every deal is equally likely, whatever
    the rates. So the range holds the observed ratio of one model sampled twice in at least `level` of cases, without any model of the
    rates; it knows that some problems without a success show one when sampled again, and that some with a single success lose it. For the
    problems that share sample counts and total, the numbers that show a success on both sides, after only, before only and on
    neither are multinomial with hypergeometric probabilities.

    Args:
        n_before: [P] samples before; problems without samples on either side are left out.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.
        rng: Random generator.
        num_draws: Number of draws.
        level: Share of the draws inside each interval.

    Returns:
        Mean and interval of each ratio; draws in which a ratio is undefined are left out, NaN where all are.

    Raises:
        ValueError: Bad counts, lengths that differ, num_draws below 1, or a level outside (0, 1).
    """
    check_level(level)
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    n0, c0, n1, c1 = as_pairs(n_before, c_before, n_after, c_after)
    rows = np.stack([n0, n1, c0 + c1], axis=1)[(n0 > 0) & (n1 > 0)]
    (first, last, total), repeats = (array.T for array in np.unique(rows, axis=0, return_counts=True))
    # All successes on the side after, and all on the side before, where they fit; without a success the two are one case.
    only_after, only_before = (
        np.where(total > 0, _chance_of_no_success(first + last, total, side), 0.0) for side in (first, last)
    )
    neither = (total == 0).astype(np.float64)
    chances = np.stack([only_after, only_before, neither, np.maximum(0.0, 1.0 - only_after - only_before - neither)], axis=1)
    shown = np.zeros((num_draws, 4))
    for count, chance in zip(repeats, chances, strict=True):
        shown += rng.multinomial(count, chance / chance.sum(), size=num_draws)
    ratios = _support_ratios(shown[:, 3], shown[:, 0], shown[:, 1])
    return SupportRatios(*(_summary(ratio, level, "the same successes dealt anew between the two sides") for ratio in ratios))


def _chance_of_no_success(num_samples: IntArray, num_correct: IntArray, num_taken: IntArray) -> FloatArray:
    """Return the probability C(n−c, h) / C(n, h) that h of n samples hold none of the c successes; 0 where they must hold one."""
    n, c, h = (array.astype(np.float64) for array in (num_samples, num_correct, num_taken))
    log_chance = (
        scipy.special.gammaln(n - c + 1)
        - scipy.special.gammaln(np.maximum(n - c - h, 0.0) + 1)
        - scipy.special.gammaln(n + 1)
        + scipy.special.gammaln(n - h + 1)
    )
    return np.where(n - c >= h, np.exp(log_chance), 0.0)


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
        weight = np.where((half > 0) & (n1 > 0), _chance_of_no_success(n0, c0, half), 0.0)
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


def _support_ratios(preserved: FloatArray, expanded: FloatArray, attrited: FloatArray) -> SupportRatios[FloatArray]:
    """Return the ratios [D] of numbers [D] of problems with a success on both sides, only after, and only before."""
    srr = _ratio(preserved, preserved + attrited)
    ndr = _ratio(expanded, preserved + expanded)
    sds = _ratio(2.0 * srr * ndr, srr + ndr)
    return SupportRatios(srr, ndr, sds, _ratio(expanded - attrited, preserved + expanded + attrited))


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    defined = bottom != 0.0
    return np.where(defined, top / np.where(defined, bottom, 1.0), np.nan)


def _summary(draws: FloatArray, level: float, method: str) -> Interval:
    draws = draws[~np.isnan(draws)]
    if draws.size == 0:
        return Interval(np.nan, np.nan, np.nan, method)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(draws.mean()), float(low), float(high), method)
