"""Nulls of support dynamics: what sampling one and the same model twice would show, and how to tell a second run from a copy.

* `predictive` (the default): new samples from the fitted mixture of the run before, at the same number of samples. It costs nothing and
  uses every sample, but depends on the fit.
* a second run of the model before: assumes nothing, and costs a run. Before, after and null are thinned to the same number of samples.
* `halves`: one half of the samples before against the other, with before and after thinned to half as well. It assumes nothing and costs
  no run, but everything then holds at half the samples: useful where the fit is in doubt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import (
    MixturePosterior,
    SupportRatios,
    support_dynamics,
    support_dynamics_halves,
    support_dynamics_null,
    thin,
)
from posttrain.diagnose.comparison.transition import SupportRow
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.types import Estimate

PREDICTIVE, HALVES = "predictive", "halves"
_DRAWS = 2000
_PAIRS = 2000
"""Samples that are compared to tell a second run from a copy."""

Ints = npt.NDArray[np.int64]


def support_rows(
    n: Ints,
    before: Ints,
    after: Ints,
    mixture_before: MixturePosterior,
    *,
    halves: bool,
    second: tuple[Ints, Ints] | None,
    rng: np.random.Generator,
) -> tuple[SupportRow, ...]:
    """Compute support dynamics, each beside its null at the same number of samples.

    Args:
        n: [P] samples of each problem on both sides.
        before: [P] successes before.
        after: [P] successes after.
        mixture_before: Fit of the side before.
        halves: Whether the null is that of split halves.
        second: Samples and successes of a second run of the model before, [P] each; overrides `halves`.
        rng: Random generator.
    """
    if second is not None:
        fewest = np.minimum(n, second[0])
        thinned = [thin(samples, c, fewest, rng=rng) for samples, c in ((n, before), (n, after), second)]
        counted = _counted(int(fewest[fewest > 0].min(initial=n.max())))
        value = [_exactly(one, counted) for one in support_dynamics(fewest, thinned[0], fewest, thinned[1])]
        again = support_dynamics(fewest, thinned[0], fewest, thinned[2])
        null = [_exactly(one, "second run of the model before, at the same n") for one in again]
    elif halves:
        sides = support_dynamics_halves(n, before, after, rng=rng, num_draws=_DRAWS)
        value, null = ([Estimate.of(one) for one in side] for side in sides)
    else:
        value = [_exactly(one, _counted(int(n.min()))) for one in support_dynamics(n, before, n, after)]
        null = [Estimate.of(one) for one in support_dynamics_null(mixture_before, n, n, rng=rng, num_draws=_DRAWS)]
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


def _counted(n: int) -> str:
    return f"counted at n = {n}"


def _exactly(value: float, method: str) -> Estimate:
    return Estimate(estimate=value, low=value, high=value, method=method)
