"""Which problems to sample next, when some are settled and others are not.

A verdict needs few samples where rates lie far from the thresholds and many where they lie close by; a fixed n pays the price of the
hardest problem for all. Here each round looks at the posterior, leaves alone what is settled, and raises the rest in proportion to
the doubt that is left. Measured for this project and dropped: an expected-gain rule that looks ahead problem by problem (it samples few
problems deeply, and so teaches the law of success rates less), and the published fewest-successes-first (it spends most where
nothing can be found); `benchmarks/sample_efficiency.py` has the latter beside this rule.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, IntArray

SETTLED = 0.2
"""Share of the greatest doubt up to which a problem is left alone."""


def still_uncertain(doubt: FloatArray) -> npt.NDArray[np.bool_]:
    """Which problems `neyman_allocation` would raise, given its `doubt` [P]."""
    return np.asarray(doubt > SETTLED * doubt.max(initial=0.0), dtype=np.bool_)


def neyman_allocation(num_samples: IntArray, doubt: FloatArray, *, budget: int, rng: np.random.Generator) -> IntArray:
    """Further samples such that all problems come as near as possible to numbers of samples in proportion to their doubt.

    For a mean over problems this is Neyman's allocation; it also teaches the law of success rates evenly.

    Args:
        num_samples: [P] samples so far.
        doubt: [P] standard deviation that one sample could still be about, at least 0.
        budget: samples to hand out.
        rng: breaks ties.

    Returns:
        [P] further samples, summing to `budget`, or zeros where there is no doubt.
    """
    extra = np.zeros_like(num_samples)
    greatest = float(doubt.max(initial=0.0))
    if greatest == 0 or budget < 1:
        return extra
    weight: FloatArray = doubt / greatest  # in proportion: the level below stays finite however small the doubts are
    weight[~still_uncertain(doubt)] = 0.0
    # Find the level h at which Σ max(0, h·weight − n) is the budget.
    low, high = 0.0, float((num_samples.sum() + budget) / weight[weight > 0].min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(0.0, middle * weight - num_samples).sum() < budget else (low, middle)
    share = np.maximum(0.0, high * weight - num_samples)
    extra = np.floor(share).astype(np.int64)
    left = budget - int(extra.sum())
    order = np.lexsort((rng.random(extra.size), -(share - extra)))
    extra[order[: max(0, left)]] += 1
    return extra


def fewest_successes_first(num_samples: IntArray, num_correct: IntArray, budget: int) -> IntArray:
    """The published baseline: each sample goes to the problem with the fewest successes, ties to the fewest attempts.

    Within a batch the outcomes are not known yet, so the attempts handed out count and the successes stand still.

    Returns:
        [P] further samples, summing to `budget`.

    Source: arXiv 2510.05197, Algorithm 1.
    """
    extra = np.zeros_like(num_samples)
    if num_samples.size == 0:
        return extra
    lowest = num_correct == num_correct.min()
    level = num_samples[lowest]
    # Fill the least attempted of them up to a common level, as one-by-one choices would.
    order = np.sort(level)
    for count in range(len(order), 0, -1):
        height = (budget + order[:count].sum()) // count
        if height >= order[count - 1]:
            break
    extra[lowest] = np.maximum(0, height - level)
    left = budget - int(extra.sum())
    chosen = np.flatnonzero(lowest & (num_samples + extra == height))[:left]
    extra[chosen] += 1
    return extra
