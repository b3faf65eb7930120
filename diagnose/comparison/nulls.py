"""Nulls of support dynamics: what sampling one and the same model twice would show, and how to tell a second run from a copy.

* Dealing (the default): the successes of every problem, before and after together, are dealt anew between the two sides. It is exact, costs
  nothing and uses every sample.
* A second run of the model before: shows what this model does, and costs a run. Before, after and null are thinned to the same number of
  samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import SupportRatios, support_dynamics, support_dynamics_null, thin
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.comparison.transition import SupportRow
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import Estimate

DEALT = "dealt"
_PAIRS = 2000
"""Samples that are compared to tell a second run from a copy."""

Ints = npt.NDArray[np.int64]


def support_rows(first: PairedCounts, *, second: tuple[Ints, Ints] | None, rng: np.random.Generator) -> tuple[SupportRow, ...]:
    """Compute support dynamics, each beside its null at the same number of samples.

    Args:
        first: The first samples of every problem, as many on both sides.
        second: Samples and successes of a second run of the model before, [P] each; None for the null of dealing.
        rng: Random generator.
    """
    n, before, _, after = first.counts
    if second is not None:
        n = np.minimum(n, second[0])
        before, after = thin(first.n_before, before, n, rng=rng), thin(first.n_after, after, n, rng=rng)
        again = support_dynamics(n, before, n, thin(*second, n, rng=rng))
        null = [_exactly(one, "second run of the model before, at the same n") for one in again]
    else:
        null = [Estimate.of(one) for one in support_dynamics_null(n, before, n, after, rng=rng)]
    counted = f"counted at n = {n[n > 0].min(initial=n.max(initial=0))}"
    value = [_exactly(one, counted) for one in support_dynamics(n, before, n, after)]
    columns = zip(SupportRatios._fields, value, null, strict=True)
    return tuple(SupportRow(name=name.upper(), value=one, null=other) for name, one, other in columns)


def are_coupled(first: RolloutTable, second: RolloutTable) -> bool:
    """Return whether two runs of one model share more samples than independent runs would: a copy, or a seed that an engine ignored.

    Equal texts alone prove nothing: a mastered behavior reads the same in every run. But each sample comes with its probability, so the
    number of equal pairs has a known mean and spread; five standard deviations and three pairs above it is not chance. A sample without
    log-probabilities counts as certain, and proves nothing.
    """
    common = sorted(set(first.problem_ids) & set(second.problem_ids))
    sides = [_samples(table, common) for table in (first, second)]
    keys = sorted(set(sides[0]) & set(sides[1]))[:_PAIRS]
    one, two = (table.rows(side[key] for key in keys) for table, side in zip((first, second), sides, strict=True))
    chance = np.exp([np.nan_to_num(rollout.sampler_logprobs).sum(dtype=np.float64) for rollout in one])
    equal = sum(a.token_ids == b.token_ids for a, b in zip(one, two, strict=True))
    return bool(equal > chance.sum() + 5.0 * np.sqrt((chance * (1.0 - chance)).sum()) + 3.0)


def _samples(table: RolloutTable, problem_ids: list[str]) -> dict[tuple[int, int], int]:
    """Map (index of the problem, index of the sample) to the row, of samples that are not missing."""
    places = table.places(problem_ids)
    kept = np.flatnonzero((places >= 0) & ~table.greedy & ~table.missing)
    return {(int(places[i]), int(table.sample_index[i])): int(i) for i in kept}


def _exactly(value: float, method: str) -> Estimate:
    return Estimate(estimate=value, low=value, high=value, method=method)
