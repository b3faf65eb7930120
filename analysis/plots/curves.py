"""Rows of figures that are computed from counts and likelihoods.

They are Cover@τ, the fitted mixing distribution by success rate, where two curves cross, and the steps of reference paths.

Problems are rows of `diagnosis.json`: `{"id", "group", "num_samples", "num_correct"}`. Draws come from a generator of their own with a
fixed seed, so that the same run gives the same figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import cover_at_tau, curve_crossing, fit_mixture, k_grid, mean_interval, pass_at_k

Problem = Mapping[str, Any]
LEVEL = 0.95
"""Of every interval here."""
_SEED = 0
_NUM_DRAWS = 2000
_TAIL = 0.1
"""Share of paths left out at either end of the spread of a step."""


def cover_rows(problems: Sequence[Problem]) -> list[dict[str, float]]:
    """Return Cover@τ at every τ at which it changes: the share of problems whose observed success rate is at least τ.

    Args:
        problems: Those of one run; without samples they are left out.

    Returns:
        `{"tau", "estimate", "low", "high"}`, τ rising to 1; empty without data. The share holds from the τ before up to this one.

    Source: arXiv 2510.08325.
    """
    samples, correct, groups = _counts(problems)
    if not samples.size:
        return []
    rates = np.unique(correct / samples)
    taus = np.unique(np.append(rates[rates > 0], 1.0))
    found = [mean_interval(cover_at_tau(samples, correct, float(tau)), groups, level=LEVEL) for tau in taus]
    return [
        {"tau": float(tau), "estimate": value.estimate, "low": value.low, "high": value.high}
        for tau, value in zip(taus, found, strict=True)
    ]


def mixture_rows(problems: Sequence[Problem], edges: npt.ArrayLike) -> list[dict[str, float]]:
    """Return how many of the problems have which success rate, by the fitted mixing distribution.

    Args:
        problems: Those of one run.
        edges: Rising numbers from 0 to 1.

    Returns:
        `{"from", "to", "estimate", "low", "high"}` in numbers of problems: one row per interval, and two with `from` equal to `to`,
        the point masses at exactly 0 and exactly 1, which the outer intervals hold too; `estimate` is NaN where samples only bound it.
        Empty without data.
    """
    samples, correct, groups = _counts(problems)
    if not samples.size:
        return []
    cuts = np.asarray(edges, dtype=np.float64)
    mixture = fit_mixture(samples, correct, groups=groups)
    rng = np.random.default_rng(_SEED)
    inner = [float(cut) for cut in cuts if 0 < cut < 1]
    expected = mixture.interval_probabilities(inner).sum(axis=0)
    counts, _ = mixture.draw_interval_counts(inner, rng=rng)
    low, high = np.quantile(counts, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    bins: list[tuple[float, ...]] = [
        (start, end, value, min(a, value), max(b, value))
        for start, end, value, a, b in zip([0.0, *inner], [*inner, 1.0], expected, low, high, strict=True)
    ]
    zero, below_one = (mixture.share_between(0.0, float(np.nextafter(end, 0.5)), level=LEVEL) for end in (0.0, 1.0))
    bins += [(0.0, 0.0, *(end * samples.size for end in (zero.estimate, zero.low, zero.high)))]
    bins += [(1.0, 1.0, *((1 - end) * samples.size for end in (below_one.estimate, below_one.high, below_one.low)))]
    return [dict(zip(("from", "to", "estimate", "low", "high"), map(float, one), strict=True)) for one in bins]


def crossing_row(before: Sequence[Problem], after: Sequence[Problem], primary_k: int = 1) -> dict[str, float] | None:
    """Return the k from which on the second run passes less often than the first, though more often at smaller k.

    Args:
        before: Problems of the first run.
        after: Those of the second; they are paired by id.
        primary_k: A k to look at beside the powers of two.

    Returns:
        `{"k", "k_low", "k_high", "probability"}`, the last being the share of draws of problems in which the curves cross; None where
        they do not cross, or where no problem was measured in both runs.

    Source: arXiv 2504.13837.
    """
    second = {row["id"]: row for row in after}
    pairs = [(row, second[row["id"]]) for row in before if row["id"] in second]
    pairs = [pair for pair in pairs if min(int(row["num_samples"]) for row in pair) > 0]
    if not pairs:
        return None
    sides = [_counts([pair[index] for pair in pairs]) for index in (0, 1)]
    smallest = min(int(samples.min()) for samples, _, _ in sides)
    ks = [k for k in k_grid(smallest, primary_k) if k <= smallest]
    curves = [np.stack([pass_at_k(samples, correct, k) for k in ks], axis=1) for samples, correct, _ in sides]
    found = curve_crossing(ks, curves[0], curves[1], sides[0][2], rng=np.random.default_rng(_SEED), level=LEVEL)
    if math.isnan(found.k.estimate):
        return None
    return {"k": found.k.estimate, "k_low": found.k.low, "k_high": found.k.high, "probability": found.probability}


def step_rows(paths: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]) -> list[dict[str, Any]]:
    """Return, per step, the median over paths of its summed negative log-likelihood, with the middle 80 % of paths.

    Args:
        paths: Per path, [T] step of each token (from 0) and [T] natural log-probabilities under the policy.

    Returns:
        Rows `{"step", "estimate", "low", "high", "n"}`, steps counted from 1, n counting paths that have the step; low and high are
        NaN where one path has it.
    """
    by_step: dict[int, list[float]] = {}
    for owner, logprobs in paths:
        steps, values = np.asarray(owner), np.asarray(logprobs, dtype=np.float64)
        for step in np.unique(steps):
            by_step.setdefault(int(step), []).append(-float(values[steps == step].sum()))
    rows = []
    for step, sums in sorted(by_step.items()):
        low, middle, high = map(float, np.quantile(sums, [_TAIL, 0.5, 1 - _TAIL]))
        ends = (low, high) if len(sums) > 1 else (math.nan, math.nan)
        rows.append({"step": step + 1, "estimate": middle, "low": ends[0], "high": ends[1], "n": len(sums)})
    return rows


def _counts(problems: Sequence[Problem]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[str]]:
    """Return samples, successes and groups of the problems that were sampled; a problem without a group is one of its own."""
    known = [row for row in problems if int(row["num_samples"]) > 0]
    samples = np.array([int(row["num_samples"]) for row in known], dtype=np.int64)
    correct = np.array([int(row["num_correct"]) for row in known], dtype=np.int64)
    return samples, correct, [str(row.get("group") or row["id"]) for row in known]
