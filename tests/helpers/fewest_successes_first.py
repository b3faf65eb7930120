"""A published allocation rule, the baseline of `benchmarks/sample_efficiency.py`."""

from __future__ import annotations

import numpy as np

from posttrain.analysis.stats import IntArray


def fewest_successes_first(num_samples: IntArray, num_correct: IntArray, budget: int) -> IntArray:
    """Give each sample to the problem with the fewest successes, and among these to the one with the fewest attempts.

    Within a batch outcomes are not known yet, so the samples handed out count as attempts and the successes stay as they are.

    Args:
        num_samples: [P] samples so far.
        num_correct: [P] successes so far.
        budget: Samples to hand out.

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
