"""Before against after, problem by problem: tests of single changes and the dynamics of support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts, as_whole, check_level
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.mixture import MixturePosterior


@dataclass(frozen=True, slots=True)
class ProblemChangeTests:
    """One-sided tests of every problem, in both directions."""

    p_expansion: FloatArray
    """[P] chance, were the rate unchanged, of at least as many of the successes after."""
    p_attrition: FloatArray
    """[P] the same for before."""
    q_expansion: FloatArray
    """[P] Benjamini-Hochberg value of `p_expansion`, both directions of all problems being one family of 2P."""
    q_attrition: FloatArray
    """[P]"""


def problem_change_tests(
    n_before: npt.ArrayLike, c_before: npt.ArrayLike, n_after: npt.ArrayLike, c_after: npt.ArrayLike
) -> ProblemChangeTests:
    """Test every problem for a rate that rose and for one that fell (Fisher's exact test, one-sided).

    The power is small: a rise from 0 to .1 passes q < .05 for none of 40 problems at 16 samples, for a quarter at 64, for all at
    256. So a problem without a significant change is undetermined, not preserved.

    Args:
        n_before: [P] samples before.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.

    Returns:
        p- and q-values in [0, 1]; a problem without samples on a side has p = 1 and is not counted in the family.

    Raises:
        ValueError: bad counts, or lengths that differ.

    Source: support dynamics as tests instead of labels; the labels are from arXiv 2507.14843.
    """
    n0, c0, n1, c1 = _check_pairs(n_before, c_before, n_after, c_after)
    p_expansion, p_attrition = np.ones(n0.size), np.ones(n0.size)
    q_expansion, q_attrition = np.ones(n0.size), np.ones(n0.size)
    known = (n0 > 0) & (n1 > 0)
    if np.any(known):
        total, right = (n0 + n1)[known], (c0 + c1)[known]
        p_expansion[known] = np.clip(stats.hypergeom.sf(c1[known] - 1, total, right, n1[known]), 0.0, 1.0)
        p_attrition[known] = np.clip(stats.hypergeom.sf(c0[known] - 1, total, right, n0[known]), 0.0, 1.0)
        family = np.stack([p_expansion[known], p_attrition[known]])
        adjusted = stats.false_discovery_control(family, axis=None).reshape(2, -1)
        q_expansion[known], q_attrition[known] = adjusted
    return ProblemChangeTests(p_expansion, p_attrition, q_expansion, q_attrition)


@dataclass(frozen=True, slots=True)
class SupportDynamics:
    """What became of the problems that had, and had not, a success. NaN where a ratio is 0/0."""

    preserved: int
    """Problems with a success before and after (P)."""
    expanded: int
    """Only after (E)."""
    attrited: int
    """Only before (S)."""
    out_of_support: int
    """Neither (O)."""
    srr: float
    """Support retention rate P/(P+S)."""
    ndr: float
    """Net discovery rate E/(P+E)."""
    sds: float
    """Harmonic mean of the two."""
    nscr: float
    """Net support change rate (E−S)/(P+E+S)."""


def support_dynamics(
    n_before: npt.ArrayLike, c_before: npt.ArrayLike, n_after: npt.ArrayLike, c_after: npt.ArrayLike
) -> SupportDynamics:
    """Count problems by whether a success was seen before and after.

    "No success in n" is a statement about n as much as about the model: at 64 samples a model compared with itself has SRR .93
    and NDR .07 on p ~ Beta(.3, 1.2). Thin both sides to the same n, and show `support_dynamics_null` beside these numbers,
    always.

    Args:
        n_before: [P] samples before; problems without samples on either side are left out.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.

    Returns:
        Counts and ratios.

    Raises:
        ValueError: bad counts, or lengths that differ.

    Source: arXiv 2507.14843.
    """
    n0, c0, n1, c1 = _check_pairs(n_before, c_before, n_after, c_after)
    known = (n0 > 0) & (n1 > 0)
    table = _support_counts(c0[None, known] > 0, c1[None, known] > 0)
    srr, ndr, sds, nscr = (float(ratio[0]) for ratio in _support_ratios(table))
    preserved, expanded, attrited, out_of_support = (int(count) for count in table[:, 0])
    return SupportDynamics(preserved, expanded, attrited, out_of_support, srr, ndr, sds, nscr)


@dataclass(frozen=True, slots=True)
class SupportDynamicsNull:
    """What the ratios of `SupportDynamics` would be if nothing had changed: mean and interval over draws."""

    srr: Interval
    ndr: Interval
    sds: Interval
    nscr: Interval


def support_dynamics_null(
    mixture_before: MixturePosterior,
    n_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
    level: float = 0.95,
) -> SupportDynamicsNull:
    """Support dynamics of the model before against a second draw of itself, at the same numbers of samples.

    What was seen before is held fixed, because the observed ratios start from it; each draw takes a rate for every problem from
    its posterior, and new samples from that rate. Rates must come from the posterior under the *fitted* spread, not from c/n: of
    the problems with no success, those that were unlucky will show one when drawn again (regression to the mean: 18 % of those
    with 0 of 16 for p ~ Beta(.3, 1.2)), and those with a single lucky success may lose it. A plug-in rate of zero would hide the
    first, so that any second draw looks like expansion. Drawing both sides afresh would be right on average too, but adds the
    noise of a draw that was in fact made.

    Args:
        mixture_before: fit of the counts before, for the same problems in the same order.
        n_before: [P] samples of the side called before. Fewer than were fitted means that it was thinned to that many,
            and each draw thins it at random (a hypergeometric draw).
        n_after: [P] samples of the side called after.
        rng: where the draws come from; not the generator, nor a copy of it, that drew the samples compared.
        num_draws: number of draws.
        level: share of the draws inside each interval.

    Returns:
        Mean and interval of each ratio; draws in which a ratio is undefined are left out, NaN where all are.

    Raises:
        ValueError: lengths that differ, or more samples before than were fitted.
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
    thinned = rng.hypergeometric(correct, fitted - correct, before, size=rates.shape)
    known = (before > 0) & (after > 0)
    ratios = _support_ratios(_support_counts(thinned[:, known] > 0, seen_after[:, known]))
    srr, ndr, sds, nscr = (_summary(ratio, level) for ratio in ratios)
    return SupportDynamicsNull(srr, ndr, sds, nscr)


def _support_counts(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> IntArray:
    """P, E, S, O along the first axis, for each row of [D, P] booleans."""
    return np.stack(
        [
            np.sum(before & after, axis=1),
            np.sum(~before & after, axis=1),
            np.sum(before & ~after, axis=1),
            np.sum(~before & ~after, axis=1),
        ]
    ).astype(np.int64)


def _support_ratios(table: IntArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    preserved, expanded, attrited, _ = table.astype(np.float64)
    srr = _ratio(preserved, preserved + attrited)
    ndr = _ratio(expanded, preserved + expanded)
    sds = _ratio(2.0 * srr * ndr, srr + ndr)
    nscr = _ratio(expanded - attrited, preserved + expanded + attrited)
    return srr, ndr, sds, nscr


def _ratio(top: FloatArray, bottom: FloatArray) -> FloatArray:
    defined = bottom != 0.0
    return np.where(defined, top / np.where(defined, bottom, 1.0), np.nan)


def _summary(draws: FloatArray, level: float) -> Interval:
    draws = draws[~np.isnan(draws)]
    method = "same model drawn again, posterior predictive"
    if draws.size == 0:
        return Interval(np.nan, np.nan, np.nan, method)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(draws.mean()), float(low), float(high), method)


def _check_pairs(
    samples_before: npt.ArrayLike, correct_before: npt.ArrayLike, samples_after: npt.ArrayLike, correct_after: npt.ArrayLike
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    n0, c0 = as_counts(samples_before, correct_before)
    n1, c1 = as_counts(samples_after, correct_after)
    if n0.shape != n1.shape:
        raise ValueError(f"{n0.size} problems before and {n1.size} after; they are paired by problem")
    return n0, c0, n1, c1
