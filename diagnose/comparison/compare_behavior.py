"""One behavior before and after, paired by problem, from finished runs to numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis import stats
from posttrain.analysis.stats import Interval
from posttrain.diagnose.comparison.change_role import decide_role
from posttrain.diagnose.comparison.imported_alike import have_other_prompts, shared_problems
from posttrain.diagnose.comparison.nulls import support_rows
from posttrain.diagnose.comparison.paired_samples import PairedCounts, align_null, bounded, pair_counts, pair_first
from posttrain.diagnose.comparison.pass_at_k_change import pass_at_k_changes, pass_at_k_curve
from posttrain.diagnose.comparison.transition import BehaviorTransition, ComparisonNote, ProblemChangeRow, SideBySide
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import Estimate, MeasureSettings, PassAtK, ProblemChange

_EQUIVALENCE_LEVEL = 0.9
"""Of the interval of an equivalence test with an error of 5 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonOptions:
    """What a comparison is told about the two runs."""

    margin: float
    """The largest change of pass@1 that does not matter."""
    trained: frozenset[str]
    """Behaviors that the stage in between was trained on."""
    stage: str | None
    """Name of that stage."""
    thresholds: ChangeThresholds


def compare_behavior(
    before: DiagnosedBehavior, after: DiagnosedBehavior, null: DiagnosedBehavior | None, options: ComparisonOptions
) -> BehaviorTransition:
    """Compare one behavior in two runs.

    Args:
        before: The behavior in the run before.
        after: The behavior in the run after.
        null: The behavior in a second run of the model before, or None.
        options: What is known about the two runs.
    """
    behavior, counts = before.behavior, pair_counts(before, after)
    first = pair_first(counts, before, after)
    second = None if null is None else align_null(first, before, null)
    found = compare_counts(behavior.name, counts, first, behavior.measure, options, second=second)
    known = behavior.sampling.known and after.behavior.sampling.known
    sizes = {len(shared_problems(before, after)), len(before.problems), len(after.problems)}
    notes = {
        ComparisonNote.PARTLY_SHARED: len(sizes) > 1,
        ComparisonNote.OTHER_PROMPTS: have_other_prompts(before, after),
        ComparisonNote.SAMPLING_UNKNOWN: not known,
        ComparisonNote.DEPLOYED_POLICY: known and not behavior.sampling.samples_the_policy,
        ComparisonNote.ONE_SEED: found.trained,
    }
    role = replace(found.role, samples_that_tell=None) if behavior.sampling.greedy else found.role
    return replace(
        found,
        role=role,
        side_by_side=side_by_side(before, after),
        notes=(*(note for note, holds in notes.items() if holds), *found.notes),
    )


def compare_counts(
    name: str,
    counts: PairedCounts,
    first: PairedCounts,
    measure: MeasureSettings,
    options: ComparisonOptions,
    *,
    second: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None,
) -> BehaviorTransition:
    """Compare the counts of one behavior in two runs.

    Args:
        name: Of the behavior.
        counts: All samples of the problems that both runs sampled.
        first: The first samples of the same problems, as many on both sides: what a number that depends on n is computed from.
        measure: The primary k and epsilon.
        options: What is known about the two runs.
        second: Samples and successes of a second run of the model before, [P] each, or None.
    """
    fewest, rng, trained = counts.fewest, np.random.default_rng(0), name in options.trained
    primary = measure.primary_k
    ks = [k for k in stats.k_grid(primary if counts.adaptive else fewest, primary) if counts.adaptive or k <= fewest]
    curves = [pass_at_k_curve(counts, ks, after=after) for after in (False, True)]
    changes = pass_at_k_changes(counts, ks) if counts.adaptive else _simultaneous_changes(counts, ks, rng)
    typical = fewest if not counts.adaptive else int(np.median(np.minimum(counts.n_before, counts.n_after)[counts.known]))
    notes = {ComparisonNote.ADAPTIVE_SAMPLING: counts.adaptive, ComparisonNote.MISSING_SAMPLES: counts.any_missing}
    groups = counts.units
    return BehaviorTransition(
        name=name,
        trained=trained,
        stage=options.stage if trained else None,
        num_problems=len(counts.ids),
        num_samples=first.fewest,
        pass_at_1_before=Estimate.of(curves[0][0]),
        pass_at_1_after=Estimate.of(curves[1][0]),
        delta=Estimate.of(pass_at_k_changes(counts, [1])[0]),
        pass_at_k_delta=_points(ks, changes),
        pass_at_k_before=_points(ks, curves[0]),
        pass_at_k_after=_points(ks, curves[1]),
        changes=problem_changes(counts, measure.epsilon, options.thresholds),
        support=support_rows(first, second=second, rng=rng),
        side_by_side=(),
        detectable_rise=stats.detectable_rise(typical, alpha=options.thresholds.false_discovery_rate / (2 * len(counts.ids))),
        detectable_rise_samples=typical,
        notes=tuple(note for note, holds in notes.items() if holds),
        num_missing=(int(counts.missing_before.sum()), int(counts.missing_after.sum())),
        role=decide_role(counts, ks, measure.epsilon, options.thresholds, rng=rng),
        never_solved=stats.never_solved_gain(*first.counts, groups, fresh=second),
        crossing=None if counts.adaptive else _crossing(counts, rng),
        first_loss=None if counts.adaptive else _first_loss(counts, rng),
        equivalence=stats.equivalence_test(pass_at_k_changes(counts, [1], level=_EQUIVALENCE_LEVEL)[0], options.margin),
    )


def problem_changes(counts: PairedCounts, epsilon: float, thresholds: ChangeThresholds) -> tuple[ProblemChangeRow, ...]:
    """Classify the change of each problem."""
    n0, c0, n1, c1 = counts.counts
    before, after = (fit.interval_probabilities([epsilon])[:, 1] for fit in counts.fits)
    if counts.adaptive:
        # Fisher's tests need sample counts that do not depend on outcomes; posterior probabilities do not.
        q_up, q_down = 1.0 - (1.0 - before) * after, 1.0 - before * (1.0 - after)
        q_values = np.minimum(q_up, q_down)
    else:
        entered, changed = (
            stats.problem_change_tests(*counts.counts, rate=thresholds.false_discovery_rate, below=edge)
            for edge in (epsilon, None)
        )
        q_up, q_down = entered.q_expansion, entered.q_attrition
        either = [np.minimum(tests.q_expansion, tests.q_attrition) for tests in (entered, changed)]
        q_values = np.where((c0 < epsilon * n0) | (c1 < epsilon * n1), *either)
    found = classify_changes(before, after, q_up, q_down, thresholds)
    states = [state if known else ProblemChange.UNDETERMINED for state, known in zip(found, counts.known, strict=True)]
    with np.errstate(invalid="ignore"):
        rates = [c0 / n0, c1 / n1]
    columns = {
        "before": rates[0], "after": rates[1], "q_value": q_values,
        "n_before": n0, "c_before": c0, "missing_before": counts.missing_before,
        "n_after": n1, "c_after": c1, "missing_after": counts.missing_after,
    }  # fmt: skip
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return tuple(
        ProblemChangeRow(id=id_, group=group, state=state, **dict(zip(columns, row, strict=True)))
        for id_, group, state, row in zip(counts.ids, counts.groups, states, rows, strict=True)
    )


def _pass_at_ks(counts: PairedCounts, ks: Sequence[int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return [P, K] unbiased estimates of pass@k before, and after."""
    n0, c0, n1, c1 = counts.counts
    before, after = (np.stack([stats.pass_at_k(n, c, k) for k in ks], axis=1) for n, c in ((n0, c0), (n1, c1)))
    return before, after


def _simultaneous_changes(counts: PairedCounts, ks: Sequence[int], rng: np.random.Generator) -> list[Interval]:
    """Estimate the change of pass@k at every k, with intervals that hold at all k at once."""

    def estimate(counts: PairedCounts) -> list[Interval]:
        before, after = _pass_at_ks(counts, ks)
        deltas = stats.max_t_deltas(before, after, counts.units, rng=rng)
        columns = zip(deltas.estimate, deltas.low, deltas.high, strict=True)
        return [Interval(float(value), float(low), float(high), f"max-T over {len(ks)} k") for value, low, high in columns]

    return bounded(counts, estimate, counts.bounds_of_change)


def _crossing(counts: PairedCounts, rng: np.random.Generator) -> stats.CurveCrossing:
    """Find where the curve after falls below the one before."""
    ks = stats.dense_ks(counts.fewest)
    before, after = _pass_at_ks(counts, ks)
    return stats.curve_crossing(ks, before, after, counts.units, rng=rng)


def _first_loss(counts: PairedCounts, rng: np.random.Generator) -> stats.FirstLoss:
    """Find the confidence set of the first k at which the curve after is lower."""
    ks = stats.dense_ks(counts.fewest)
    band = _simultaneous_changes(counts, ks, rng)
    return stats.first_loss(ks, [one.low for one in band], [one.high for one in band])


def _points(ks: Sequence[int], values: Sequence[Interval]) -> tuple[PassAtK, ...]:
    return tuple(PassAtK(k=k, value=Estimate.of(value), extrapolated=False) for k, value in zip(ks, values, strict=True))


def side_by_side(before: DiagnosedBehavior, after: DiagnosedBehavior) -> tuple[SideBySide, ...]:
    """Collect what may explain a difference without being the goal."""
    sides = (before.table, after.table)
    values: dict[str, list[npt.NDArray[Any]]] = {
        "generated tokens per sample": [_known_lengths(table) for table in sides],
        "truncated share": [np.where(table.end_unknown, np.nan, table.truncated) for table in sides],
        "nats per generated token": [-table.mean_policy_logprob for table in sides],
    }
    rows = []
    for name, pair in values.items():
        means = [_per_problem(table, of) for table, of in zip(sides, pair, strict=True)]
        rows.append(SideBySide(name=name, before=_mean_over_problems(means[0]), after=_mean_over_problems(means[1])))
    scores = [np.array([-p.policy_logprobs.astype(np.float64).mean() for p in measured.paths]) for measured in (before, after)]
    if all(len(s) for s in scores):
        name = "reference path, nats per token"
        rows.append(SideBySide(name=name, before=_mean_over_problems(scores[0]), after=_mean_over_problems(scores[1])))
    return tuple(rows)


def _known_lengths(table: RolloutTable) -> npt.NDArray[np.float64]:
    """Return [R] generated tokens; NaN where no sample of the run has any, because they were not counted."""
    return np.where(table.num_tokens.any(), table.num_tokens, np.nan)


def _per_problem(rollouts: RolloutTable, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Average values [R] over the samples of each problem; NaN and problems without a number are left out."""
    kept = ~rollouts.greedy & ~np.isnan(values)
    problem = rollouts.problem[kept]
    totals, counts = np.bincount(problem, weights=values[kept]), np.bincount(problem)
    means: npt.NDArray[np.float64] = totals[counts > 0] / counts[counts > 0]
    return means


def _mean_over_problems(values: npt.NDArray[np.float64]) -> Estimate:
    """Return the mean with a normal interval; these values are unbounded and only stand beside a result."""
    if len(values) < 2:
        value = float(values.mean()) if len(values) else float("nan")
        return Estimate(estimate=value, low=float("nan"), high=float("nan"), method="one problem")
    error = 1.96 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    mean = float(values.mean())
    return Estimate(estimate=mean, low=mean - error, high=mean + error, method="normal over problems")
