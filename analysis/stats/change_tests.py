"""Before against after with the same problems: which of them changed, and whether anything did.

Both tests rest on one fact. If a problem's success rate did not change, its samples are exchangeable between the two sides, so given
how many successes there are on both sides together, the number on the side after is hypergeometric (Fisher's exact test). Nothing
is assumed about how rates are spread over problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_pairs, as_whole, check_level
from posttrain.analysis.stats.estimators import pass_at_k

_TIE = 1.0 + 1e-7
"""p-values this close are equal: the same chance, summed in another order."""


# ----------------------------------------------------------------------------------------------------------- single problems


@dataclass(frozen=True, slots=True)
class ProblemChangeTests:
    """One-sided tests of every problem, in both directions."""

    p_expansion: FloatArray
    """[P] chance, were the rate unchanged, of at least as many of the successes after."""
    p_attrition: FloatArray
    """[P] the same for before."""
    q_expansion: FloatArray
    """[P] false-discovery rate at which the problem counts as risen, both directions of all problems being one family; 1 where it
    fell, or where `below` was given and neither side shows a rate below it."""
    q_attrition: FloatArray
    """[P] the same for fallen."""


def problem_change_tests(
    n_before: npt.ArrayLike,
    c_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    c_after: npt.ArrayLike,
    *,
    rate: float = 0.05,
    below: float | None = None,
) -> ProblemChangeTests:
    """Test every problem for a rate that rose or fell: Fisher's exact tests under a discrete Benjamini-Hochberg procedure.

    Counts are discrete: with 3 successes in 2 × 64 samples no p-value below .12 exists, and such a problem can never be a false
    discovery at a small threshold. Plain Benjamini-Hochberg counts it as if it could. The discrete procedure puts in place of the
    threshold t the sum of the chances F_i(t) that problem i, given its total, shows a p-value of t or less by luck, each divided by
    1 − F_i(τ), τ being the largest threshold in question: with that it holds the false-discovery rate for independent problems of any
    spread (DBH-SU of Döhler, Durand and Roquain, Electronic Journal of Statistics 12, 2018; after Heyse 2011). Each problem is one
    hypothesis with the smaller of its two one-sided p-values, so the problems stay independent.

    Whoever looks only for problems that came into support, or left it, should say so by `below`: a result then counts only where one
    side shows a rate below it, and the errors that 5 % allow are not spent on problems that could never be called one or the other. It
    is the same exact test with fewer results that reject: F_i(t) is the chance of a p-value of t or less *and* of a side below.

    Measured for this project (`benchmarks/null_and_power.py`; rises from 0 to .1 among 200 problems, 64 samples): with
    `below` it finds 78 % of 40 rises, 58 % of 10 and 28 % of 2, where it found 41 %, 10 % and 6 % without; plain Benjamini-Hochberg finds
    7 %, 2 % and none. At 256 samples all find all, at 16 none finds any. So a problem without a significant change is undetermined,
    not preserved.

    Args:
        n_before: [P] samples before.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.
        rate: false-discovery rate at which results will be read; q-values above it only say "above".
        below: success rate inside (0, 1) that a side must fall short of, in what was seen, for its problem to count; None for any change.

    Returns:
        p- and q-values in [0, 1]; a problem without samples on a side has p = 1 and is not counted in the family. The p-values are
        Fisher's, whatever `below`.

    Raises:
        ValueError: bad counts, lengths that differ, or a rate or `below` outside (0, 1).

    Source: support dynamics as tests instead of labels; the labels are from arXiv 2507.14843.
    """
    check_level(rate)
    if below is not None and not 0.0 < below < 1.0:
        raise ValueError(f"below must lie between 0 and 1, got {below}")
    n0, c0, n1, c1 = as_pairs(n_before, c_before, n_after, c_after)
    p_expansion, p_attrition, smaller = np.ones((3, n0.size))
    known = np.flatnonzero((n0 > 0) & (n1 > 0))
    tables, table, _ = _tables(n0[known], n1[known], (c0 + c1)[known], below)
    for index, t in zip(known, table, strict=True):
        one, place = tables[t], c1[index] - tables[t].first
        p_expansion[index], p_attrition[index], smaller[index] = one.rise[place], one.fall[place], one.smaller[place]
    q = np.ones(n0.size)
    q[known] = _discrete_fdr(smaller[known], tables, np.bincount(table, minlength=len(tables)), rate)
    q_expansion, q_attrition = np.where(p_expansion < p_attrition, q, 1.0), np.where(p_attrition < p_expansion, q, 1.0)
    return ProblemChangeTests(p_expansion, p_attrition, q_expansion, q_attrition)


def _discrete_fdr(p: FloatArray, tables: list[_Table], repeats: IntArray, rate: float) -> FloatArray:
    """[P] q-values of DBH-SU for p-values [P] of problems of which `repeats` have each of the tables."""
    if p.size == 0:
        return np.ones(0)
    # The steps of all tables in one row, by the p-value at which they stand.
    steps = np.concatenate([t.steps for t in tables], axis=1)
    owner = np.repeat(np.arange(len(tables)), [t.steps.shape[1] for t in tables])
    order = np.argsort(steps[0], kind="stable")
    (at, chance, odds), owner = steps[:, order], owner[order]

    def up_to(thresholds: FloatArray, heights: FloatArray) -> FloatArray:
        """Sum over problems of the steps at or below each threshold."""
        sums = np.concatenate([[0.0], np.cumsum(repeats[owner] * heights)])
        return np.asarray(sums[np.searchsorted(at, thresholds * _TIE, side="right")])

    # τ is the last place where the sum of F/(1 − F), a staircase, is at most rate × P.
    tau = float(at[up_to(at, odds) <= rate * p.size].max(initial=0.0))
    at_tau = np.bincount(owner, weights=chance * (at <= tau * _TIE), minlength=len(tables))
    thresholds = np.unique(p)
    early = up_to(thresholds, chance / (1.0 - at_tau[owner]))
    expected = np.where(thresholds <= tau * _TIE, early, up_to(thresholds, odds))
    found = np.searchsorted(np.sort(p), thresholds * _TIE, side="right")
    q = np.minimum.accumulate((expected / found)[::-1])[::-1]
    return np.minimum(q[np.searchsorted(thresholds, p)], 1.0)


# ------------------------------------------------------------------------------------------------------------- all problems


@dataclass(frozen=True, slots=True)
class PermutationTest:
    """Whether anything changed on these problems, and in which respects. S statistics; NaN without data."""

    names: tuple[str, ...]
    """`pass@k` for every k, then `gained` and `lost`."""
    observed: FloatArray
    """[S] mean over problems: change of pass@k; success rate after of problems without a success before (0 for the others); and
    success rate before of those without one after."""
    expected: FloatArray
    """[S] the same on average if no rate changed: 0 for changes of pass@k, and what regression to the mean gives for the others."""
    adjusted_p: FloatArray
    """[S] chance that any of the S statistics is as extreme as this one if no rate changed; two-sided for pass@k, else one-sided."""


def permutation_test(
    n_before: npt.ArrayLike,
    c_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    c_after: npt.ArrayLike,
    ks: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    num_draws: int = 2000,
) -> PermutationTest:
    """Test at once whether pass@k changed at any k, and whether successes came to problems that had none, or left those that keep none.

    Each draw deals the samples of every problem anew between the two sides, which leaves its total as it is. The largest
    standardised statistic of the draws (max-T) is what each observed one is held against, so the chance of a single value of at
    most α under one and the same model is at most α, whatever the rates: it is exact, up to the noise of `num_draws` draws.
    `gained` and `lost` see what a mean cannot: some problems that come in while others fall out.

    It speaks of *these* problems; intervals over problems (`max_t_deltas`) speak of the population that they come from.

    Args:
        n_before: [P] samples before; problems without samples on either side are left out.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.
        ks: [K] attempts, none above the fewest samples of a problem that is not left out.
        rng: where the draws come from.
        num_draws: number of draws.

    Returns:
        Statistics, their expectations and adjusted p-values.

    Raises:
        ValueError: bad counts, lengths that differ, a k that was not sampled, or num_draws below 1.
    """
    n0, c0, n1, c1 = as_pairs(n_before, c_before, n_after, c_after)
    attempts = as_whole(ks, "ks")
    if num_draws < 1:
        raise ValueError(f"num_draws must be at least 1, got {num_draws}")
    names = (*(f"pass@{k}" for k in attempts), "gained", "lost")
    known = (n0 > 0) & (n1 > 0)
    if not np.any(known):
        nothing = np.full(len(names), np.nan)
        return PermutationTest(names, nothing, nothing, nothing)
    if np.any(attempts < 1) or np.any(attempts > min(n0[known].min(), n1[known].min())):
        raise ValueError(f"ks must lie between 1 and the fewest samples of a problem, got {attempts.tolist()}")
    tables, table, keys = _tables(n0[known], n1[known], (c0 + c1)[known], None)
    curves = {int(n): _curve(int(n), attempts) for n in np.unique(np.stack([n0[known], n1[known]]))}
    observed, expected, variance = np.zeros((3, len(names)))
    drawn = np.zeros((num_draws, len(names)))
    for t, (one, (samples_before, samples_after, total)) in enumerate(zip(tables, keys, strict=True)):
        after = one.first + np.arange(one.chance.size)
        values = _statistics(curves[int(samples_before)], total - after, curves[int(samples_after)], after)
        (members,) = np.nonzero(table == t)
        observed += values[c1[known][members] - one.first].sum(axis=0)
        mean = one.chance @ values
        expected += members.size * mean
        variance += members.size * (one.chance @ (values - mean) ** 2)
        if one.chance.size > 1:
            places = np.searchsorted(np.cumsum(one.chance)[:-1], rng.random((num_draws, members.size)), side="right")
            drawn += values[places].sum(axis=1)
        else:
            drawn += members.size * values[0]
    spread = np.sqrt(variance)
    two_sided = np.arange(len(names)) < attempts.size
    scale = np.where(spread > 0, spread, np.inf)

    def sizes(sums: FloatArray) -> FloatArray:
        scores = (sums - expected) / scale
        return np.where(two_sided, np.abs(scores), scores)

    largest = sizes(drawn).max(axis=1)
    # Rounding must not make a draw that equals what was observed look smaller.
    at_least = largest[:, None] >= sizes(observed)[None, :] - 1e-9
    adjusted = (1 + at_least.sum(axis=0)) / (num_draws + 1)
    size = int(known.sum())
    return PermutationTest(names, observed / size, expected / size, adjusted)


def _curve(n: int, ks: IntArray) -> FloatArray:
    """[n + 1, K + 1] pass@k for every number of successes, and the plain success rate."""
    correct = np.arange(n + 1)
    return np.stack([*(pass_at_k(np.full(n + 1, n), correct, int(k)) for k in ks), correct / n], axis=1)


def _statistics(before: FloatArray, c0: IntArray, after: FloatArray, c1: IntArray) -> FloatArray:
    """[ways, S] what one problem adds to each statistic, for every way to split its successes between two sides with these curves."""
    changes = after[c1, :-1] - before[c0, :-1]
    gained, lost = np.where(c0 == 0, after[c1, -1], 0.0), np.where(c1 == 0, before[c0, -1], 0.0)
    return np.concatenate([changes, gained[:, None], lost[:, None]], axis=1)


# -------------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True, slots=True)
class _Table:
    """How the successes of one problem may fall on the side after, given the samples on both sides and the total."""

    first: int
    """Fewest successes after that are possible; arrays [C] run on from it."""
    chance: FloatArray
    rise: FloatArray
    """One-sided p-value of a rise."""
    fall: FloatArray
    smaller: FloatArray
    """The smaller of the two; 1 where neither side shows a rate below the one asked for."""
    steps: FloatArray
    """[3, C] of the distribution function F of `smaller`: where it steps up, how far it does, and how far F/(1 − F) does."""


@lru_cache(maxsize=4096)
def _table(n_before: int, n_after: int, total: int, below: float | None) -> _Table:
    first = max(0, total - n_before)
    after = np.arange(first, min(n_after, total) + 1, dtype=np.float64)
    log_chance = _log_choose(n_after, after) + _log_choose(n_before, total - after)
    chance = np.exp(log_chance - log_chance.max())
    chance /= chance.sum()
    rise, fall = np.minimum(np.cumsum(chance[::-1])[::-1], 1.0), np.minimum(np.cumsum(chance), 1.0)
    smaller = np.minimum(rise, fall)
    if below is not None:
        smaller[(after >= below * n_after) & (total - after >= below * n_before)] = 1.0
    order = np.argsort(smaller, kind="stable")
    reached = np.minimum(np.cumsum(chance[order]), 1.0 - 1e-12)  # odds stay finite, and beyond any that are asked for
    steps = np.stack([smaller[order], chance[order], np.diff(reached / (1.0 - reached), prepend=0.0)])
    return _Table(first, chance, rise, fall, smaller, steps)


def _log_choose(n: int, c: FloatArray) -> FloatArray:
    return np.asarray(
        scipy.special.gammaln(n + 1.0) - scipy.special.gammaln(c + 1.0) - scipy.special.gammaln(n - c + 1.0), dtype=np.float64
    )


def _tables(n0: IntArray, n1: IntArray, total: IntArray, below: float | None) -> tuple[list[_Table], IntArray, IntArray]:
    """The different tables, the place of each problem's table among them [P], and what each of them is a table of [tables, 3]."""
    keys, place = np.unique(np.stack([n0, n1, total], axis=1), axis=0, return_inverse=True)
    tables = [_table(int(before), int(after), int(both), below) for before, after, both in keys]
    return tables, place.reshape(-1).astype(np.int64), keys
