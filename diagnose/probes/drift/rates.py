"""Success rates before and now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import MixturePosterior, fit_mixture, problem_change_tests
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.measure.success_counts import count_successes
from posttrain.diagnose.probes.base import MeasuredBehavior
from posttrain.diagnose.probes.drift.answers import Floats64
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Estimate, Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class RatesBeforeAndNow:
    """Success before and now, per problem."""

    before: MixturePosterior
    p_before: Floats64
    """[P] posterior mean; NaN where the earlier policy was not sampled."""
    p_after: Floats64
    """[P]"""
    states: tuple[str, ...]
    """[P] a `ProblemChange`."""
    fell: npt.NDArray[np.bool_]
    """[P] whether the tests find that the rate fell."""
    lost: Floats64
    """[P] posterior probability of having been in support and keeping less than half of the rate."""
    confidence: float
    """Posterior probability that most problems that are not mastered are lost."""
    num_lost: Estimate


def _outcomes(measured: MeasuredBehavior, table: RolloutTable) -> list[npt.NDArray[np.bool_]]:
    """Return, per problem, whether each of its samples with a known outcome succeeded, in the order in which they were taken."""
    place, right = table.known_outcomes([problem.id for problem in measured.problems], measured.behavior.measure.success)
    return np.split(right, np.searchsorted(place, np.arange(1, len(measured.problems))))


def _even(outcomes: Sequence[npt.NDArray[np.bool_]], equally: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return samples and successes for a test that needs a number of samples that does not depend on their outcomes.

    Where problems were sampled in rounds, the first samples of each count, as many as the problem with the fewest has.
    """
    sizes = np.array([one.size for one in outcomes])
    fewest = sizes.max(initial=0) if equally else sizes[sizes > 0].min(initial=sizes.max(initial=0))
    return np.minimum(sizes, fewest), np.array([int(one[:fewest].sum()) for one in outcomes])


def compare_rates(
    measured: MeasuredBehavior, thresholds: Thresholds, sampled: Sequence[Rollout], earlier_run: RolloutTable | None
) -> RatesBeforeAndNow:
    """Compare success before, from the earlier run where there is one and else from what was sampled, with success now."""
    measure, groups = measured.behavior.measure, measured.counts.groups
    if earlier_run is not None:
        counts = count_successes(measured.behavior, measured.problems, earlier_run)
        n_before, c_before = counts.num_samples, counts.num_correct
        thinned = _even(_outcomes(measured, earlier_run), counts.sampled_equally)
    else:
        known: dict[str, list[bool]] = {problem.id: [] for problem in measured.problems}
        for rollout in sampled:
            if (right := rollout.succeeded(measure.success)) is not None:
                known[rollout.problem_id].append(right)
        n_before, c_before = (np.array([f(one) for one in known.values()], dtype=np.int64) for f in (len, sum))
        thinned = n_before, c_before  # how many there are depends on the budget, not on the outcomes
    before = fit_mixture(n_before, c_before, groups=groups)
    after = measured.posterior.mixture
    n_after, c_after = _even(_outcomes(measured, measured.rollouts), measured.counts.sampled_equally)
    rate = thresholds.change.false_discovery_rate
    entered, changed = (
        problem_change_tests(*thinned, n_after, c_after, rate=rate, below=edge) for edge in (measure.epsilon, None)
    )
    fell = changed.q_attrition <= rate

    rng, num_draws = np.random.default_rng(0), thresholds.num_draws
    was, now = (mixture.draw_rates(rng=rng, num_draws=num_draws) for mixture in (before, after))
    held = (now < thresholds.mastered) & (n_before > 0)
    lost = held & (was >= measure.epsilon) & (now < thresholds.drift.kept * was)
    most = lost.sum(axis=1) > thresholds.drift.share_lost * np.maximum(held.sum(axis=1), 1)
    found = int(fell.sum())
    high = float(np.quantile(lost.sum(axis=1), 0.5 + thresholds.level / 2))
    reach = [mixture.interval_probabilities([measure.epsilon])[:, 1] for mixture in (before, after)]
    states = classify_changes(reach[0], reach[1], entered.q_expansion, entered.q_attrition, thresholds.change)
    return RatesBeforeAndNow(
        before=before,
        p_before=np.where(n_before > 0, before.problem_means(), np.nan),
        p_after=after.problem_means(),
        states=tuple(state.value for state in states),
        fell=fell,
        lost=lost.mean(axis=0),
        # Finitely many draws prove no certainty: half a draw is always left to the other side.
        confidence=(int(most.sum()) + 0.5) / (num_draws + 1),
        num_lost=Estimate(
            estimate=float(found),
            low=(1 - rate) * found,
            high=max(float(found), high),
            method="Fisher's tests, 5 % of those found may be false; high: posterior of halved rates",
        ),
    )
