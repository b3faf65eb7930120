"""Allocation of further samples over problems in adaptive sampling.

A verdict needs few samples where rates lie far from the thresholds and many where they lie close; a fixed n pays the price of the hardest
problem for all. Here each round reads the posterior, gives nothing to problems that are decided, and allocates the rest in proportion to
the remaining uncertainty. Measured for this project and dropped: an expected-gain rule that looks ahead problem by problem (it samples few
problems deeply, and so learns the mixing distribution less well), and the published fewest-successes-first (it spends most where nothing
can be found); `benchmarks/sample_efficiency.py` has the latter beside this rule.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, IntArray

NEGLIGIBLE_SHARE = 0.2
"""Share of the largest uncertainty up to which a problem gets no further samples."""


def still_uncertain(uncertainty: FloatArray) -> npt.NDArray[np.bool_]:
    """Return [P] whether `neyman_allocation` would give each problem samples, for its `uncertainty` [P]."""
    return np.asarray(uncertainty > NEGLIGIBLE_SHARE * uncertainty.max(initial=0.0), dtype=np.bool_)


def neyman_allocation(num_samples: IntArray, uncertainty: FloatArray, *, budget: int, rng: np.random.Generator) -> IntArray:
    """Allocate samples so that all problems come as near as possible to sample counts in proportion to their uncertainty.

    For a mean over problems this is Neyman's allocation; it also informs the mixing distribution evenly.

    Args:
        num_samples: [P] samples so far.
        uncertainty: [P] standard deviation that one sample could still resolve, at least 0.
        budget: Samples to hand out.
        rng: Breaks ties.

    Returns:
        [P] further samples, summing to `budget`, or zeros where there is no uncertainty.
    """
    extra = np.zeros_like(num_samples)
    greatest = float(uncertainty.max(initial=0.0))
    if greatest == 0 or budget < 1:
        return extra
    weight: FloatArray = uncertainty / greatest  # relative: the level below stays finite however small the uncertainties are
    weight[~still_uncertain(uncertainty)] = 0.0
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
