"""Exact bounds of pass@k over a population from the number of problems that were ever solved, for very few problems.

A problem has a success among its n ≥ k samples with a probability of at least its pass@k, and a failure with one of at least 1 − pass@k, in
whatever order and by whatever rule it was sampled. So the number of problems with any success bounds mean pass@k from above as a binomial number,
and that with any failure bounds it from below (Clopper and Pearson, Biometrika 26, 1934). With many problems these bounds are wide. With so few that the t
quantile of a profile interval allows more than an exact bound does (up to five at 95 %), they are what keeps 0 of 12 right from being compatible with 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import scipy

from posttrain.analysis.stats.arrays import IntArray
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.profile_likelihood import profile_drop


def bound_few_problems(
    found: Sequence[Interval], ks: Sequence[int], num_samples: IntArray, num_correct: IntArray, *, level: float
) -> list[Interval]:
    """Return profile intervals of mean pass@k, none of them wider than the exact bounds where problems are very few.

    Args:
        found: Of each k.
        ks: Attempts.
        num_samples: [P] samples of each problem, at least one; problems are unrelated.
        num_correct: [P] successes.
        level: Of the intervals.
    """
    count, tail = len(num_samples), (1.0 - level) / 2.0
    if not count or profile_drop(level, count - 1) <= -math.log(tail):
        return list(found)
    solved, failed = int((num_correct > 0).sum()), int((num_correct < num_samples).sum())
    fewest = int(num_samples.min())
    low, high = 1.0 - _upper(failed, count, tail), _upper(solved, count, tail)
    bounded = []
    for one, k in zip(found, ks, strict=True):
        estimate, ends = one.estimate, (max(one.low, low), min(one.high, high) if k <= fewest else one.high)
        if not failed or (not solved and k <= fewest):  # what every unbiased estimate says
            estimate = 0.0 if failed else 1.0
        if ends != (one.low, one.high):
            one = replace(one, low=ends[0], high=ends[1], method=f"{one.method}, within exact bounds over problems")
        bounded.append(replace(one, estimate=estimate))
    return bounded


def _upper(num: int, count: int, tail: float) -> float:
    """Return the upper Clopper–Pearson bound of a share of which `num` of `count` were seen."""
    return 1.0 if num == count else float(scipy.special.betaincinv(num + 1, count - num, 1.0 - tail))
