"""One behavior before and after, paired by problem, from finished runs to numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis import stats
from posttrain.diagnose.comparison.change_role import decide_role
from posttrain.diagnose.comparison.nulls import HALVES, support_rows
from posttrain.diagnose.comparison.paired_samples import PairedCounts, align_null, is_adaptive, pair_counts
from posttrain.diagnose.comparison.transition import (
    BehaviorTransition,
    ComparisonNote,
    ProblemChangeRow,
    SideBySide,
)
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import Estimate, PassAtK

_BOOTSTRAP_SAMPLES = 2000

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonOptions:
    """What a comparison is told about the two runs."""

    null: str
    """`predictive`, `halves`, or the folder of a second run of the model before."""
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
    n, c0, c1, groups = counts.n, counts.before, counts.after, counts.groups
    epsilon, fewest = behavior.measure.epsilon, int(n.min())
    trained = behavior.name in options.trained
    rng = np.random.default_rng(0)
    mixtures = [stats.fit_mixture(n, side, groups=groups) for side in (c0, c1)]
    ks = [k for k in stats.k_grid(fewest, behavior.measure.primary_k) if k <= fewest]
    first, last = (np.stack([stats.pass_at_k(n, side, k) for k in ks], axis=1) for side in (c0, c1))
    delta, delta_curve = _paired_changes(ks, first, last, groups, rng)
    role = decide_role(n, c0, c1, ks, mixtures, epsilon, options.thresholds, rng=rng)
    crossing = stats.curve_crossing(ks, first, last, groups, rng=rng, num_draws=_BOOTSTRAP_SAMPLES)
    second = None if null is None else align_null(counts, before, null)
    if is_adaptive(before, after):
        delta, delta_curve = _likelihood_changes(before, after, counts, rng)
    notes = {
        ComparisonNote.DEPLOYED_POLICY: not behavior.sampling.samples_the_policy,
        ComparisonNote.ONE_SEED: trained,
        ComparisonNote.ADAPTIVE_SAMPLING: is_adaptive(before, after),
    }
    return BehaviorTransition(
        name=behavior.name,
        trained=trained,
        stage=options.stage if trained else None,
        num_problems=len(counts.ids),
        num_samples=fewest,
        pass_at_1_before=Estimate.of(stats.mean_interval(first[:, 0], groups)),
        pass_at_1_after=Estimate.of(stats.mean_interval(last[:, 0], groups)),
        delta=delta,
        pass_at_k_delta=delta_curve,
        pass_at_k_before=_curve(ks, first, groups),
        pass_at_k_after=_curve(ks, last, groups),
        changes=_problem_changes(counts, mixtures, epsilon, options.thresholds),
        support=support_rows(n, c0, c1, mixtures[0], halves=options.null == HALVES, second=second, rng=rng),
        side_by_side=_side_by_side(before, after),
        detectable_rise=stats.detectable_rise(
            fewest, fewest, alpha=options.thresholds.false_discovery_rate / (2 * len(counts.ids))
        ),
        notes=tuple(note for note, holds in notes.items() if holds),
        role=role,
        never_solved=stats.never_solved_gain(n, c0, n, c1, groups, fresh=second),
        crossing=crossing,
        equivalence=stats.equivalence_test(first[:, 0], last[:, 0], options.margin, groups),
    )


def _problem_changes(
    counts: PairedCounts, mixtures: Sequence[stats.MixturePosterior], epsilon: float, thresholds: ChangeThresholds
) -> tuple[ProblemChangeRow, ...]:
    """Classify the change of each problem."""
    n, c0, c1 = counts.n, counts.before, counts.after
    reach = [mixture.interval_probabilities([epsilon])[:, 1] for mixture in mixtures]
    entered, changed = (
        stats.problem_change_tests(n, c0, n, c1, rate=thresholds.false_discovery_rate, below=edge) for edge in (epsilon, None)
    )
    states = classify_changes(reach[0], reach[1], entered.q_expansion, entered.q_attrition, thresholds)
    either = [np.minimum(tests.q_expansion, tests.q_attrition) for tests in (entered, changed)]
    q_values = np.where(np.minimum(c0, c1) < epsilon * n, *either)
    columns = zip(counts.ids, counts.groups, c0 / n, c1 / n, states, q_values, n, strict=True)
    return tuple(
        ProblemChangeRow(
            id=id_, group=group, before=float(b), after=float(a), state=state, q_value=float(q), num_samples=int(samples)
        )
        for id_, group, b, a, state, q, samples in columns
    )


def _paired_changes(
    ks: Sequence[int], first: Curve, last: Curve, groups: Sequence[str], rng: np.random.Generator
) -> tuple[Estimate, tuple[PassAtK, ...]]:
    """Estimate the change of pass@1, and simultaneously of pass@k at every k, from equally many samples of both runs."""
    deltas = stats.max_t_deltas(first, last, groups, rng=rng, num_draws=_BOOTSTRAP_SAMPLES)
    method = f"max-T over {len(ks)} k, bootstrap over problems"
    curve = tuple(
        _point(k, Estimate(estimate=float(value), low=float(low), high=float(high), method=method))
        for k, value, low, high in zip(ks, deltas.estimate, deltas.low, deltas.high, strict=True)
    )
    return Estimate.of(stats.paired_delta_interval(first[:, 0], last[:, 0], groups)), curve


def _likelihood_changes(
    before: DiagnosedBehavior, after: DiagnosedBehavior, counts: PairedCounts, rng: np.random.Generator
) -> tuple[Estimate, tuple[PassAtK, ...]]:
    """Estimate the change of pass@1 and of pass@k by likelihood from all samples of both runs: for adaptive sampling."""
    fits = []
    for measured in (before, after):
        sampling = measured.sampling
        place = {problem_id: i for i, problem_id in enumerate(sampling.problem_ids)}
        rows = [place[problem_id] for problem_id in counts.ids]
        fits.append(stats.fit_mixture(sampling.num_samples[rows], sampling.num_correct[rows], groups=counts.groups))
    primary_k = before.behavior.measure.primary_k
    curve = tuple(
        _point(k, Estimate.of(stats.posterior_delta_interval(fits[0], fits[1], k, groups=counts.groups, rng=rng)))
        for k in stats.k_grid(primary_k, primary_k)
    )
    return next(point.value for point in curve if point.k == 1), curve


def _curve(ks: Sequence[int], curve: Curve, groups: Sequence[str]) -> tuple[PassAtK, ...]:
    return tuple(_point(k, Estimate.of(stats.mean_interval(curve[:, i], groups))) for i, k in enumerate(ks))


def _point(k: int, value: Estimate) -> PassAtK:
    return PassAtK(k=k, value=value, extrapolated=False)


def _side_by_side(before: DiagnosedBehavior, after: DiagnosedBehavior) -> tuple[SideBySide, ...]:
    """Collect what may explain a difference without being the goal."""
    sides = (before.table, after.table)
    values: dict[str, list[npt.NDArray[Any]]] = {
        "generated tokens per sample": [table.num_tokens for table in sides],
        "truncated share": [table.truncated for table in sides],
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
