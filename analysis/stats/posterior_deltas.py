"""Change of mean pass@k between two runs under adaptive sampling or unequal sample counts.

Where every problem was sampled equally often, `paired_delta_interval` needs no model. Under adaptive sampling the plain success rate c/n
is biased (optional stopping), so the change is computed from the two posteriors instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.analysis.stats.arrays import FloatArray, check_k, check_level
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.mixture import MixturePosterior


def posterior_delta_interval(
    before: MixturePosterior,
    after: MixturePosterior,
    k: int,
    *,
    groups: Sequence[str] | None = None,
    rng: np.random.Generator,
    num_draws: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Compute an interval for the mean change of pass@k over the population of problems, paired by problem.

    Each draw takes a rate for every problem from either posterior and reweights the problems (or groups): Bayesian bootstrap.

    Args:
        before: Fit of the run before.
        after: Fit of the run after, the same problems in the same order.
        k: Attempts.
        groups: [P] name of the group of each problem, or None.
        rng: Random generator.
        num_draws: Number of draws.
        level: Posterior probability inside the interval.

    Returns:
        Mean and quantiles of the draws; NaN without problems.

    Raises:
        ValueError: Lengths that differ, or arguments out of range.

    Source: paired differences over questions, arXiv 2411.00640; likelihood under adaptive sampling, arXiv 2510.05197.
    """
    check_k(k)
    check_level(level)
    num_problems = before.num_samples.size
    if after.num_samples.size != num_problems:
        raise ValueError(f"{num_problems} problems before and {after.num_samples.size} after; they are paired by problem")
    method = "two posteriors, problems reweighted"
    if num_problems == 0:
        return Interval(np.nan, np.nan, np.nan, method)
    values: list[FloatArray] = []
    for side in (before, after):
        values.append(1.0 - (1.0 - side.draw_rates(rng=rng, num_draws=num_draws)) ** k)
    units = np.arange(num_problems) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    weight = rng.exponential(size=(num_draws, int(units.max()) + 1))[:, units]
    draws = (weight * (values[1] - values[0])).sum(axis=1) / weight.sum(axis=1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(draws.mean()), float(low), float(high), method)
