"""Three or more runs on the same problems, such as the checkpoints of one training run, from finished runs to numbers.

Every change is taken against the first run, paired by problem. Multiplicity is paid twice: the bands of a behavior hold at all checkpoints
and all k at once, and problems called changed have their false-discovery rate divided by the number of later checkpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from posttrain.analysis import stats
from posttrain.analysis.stats import Interval
from posttrain.diagnose.comparison.checkpoint_counts import CheckpointCounts
from posttrain.diagnose.comparison.checkpoints_json import (
    CheckpointBehaviorEntry,
    CheckpointPointEntry,
    CheckpointProblemEntry,
    Direction,
    RetentionState,
)
from posttrain.diagnose.comparison.comparable_runs import check_comparable
from posttrain.diagnose.comparison.compare_behavior import problem_changes, side_by_side
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.comparison.pass_at_k_change import pass_at_k_changes, pass_at_k_curve
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry, PassAtKEntry
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import Purpose

LEVEL = 0.95
"""Of the bands of a behavior."""
RETENTION_LEVEL = 0.9
"""Of the changes that decide retention: two one-sided tests with an error of 5 %, over all checkpoints."""


def check_all_comparable(runs: Sequence[DiagnosedRun]) -> list[str]:
    """Return the names of the behaviors that all runs sampled.

    Raises:
        RunError: As `check_comparable`, for any two of the runs; or they share no behavior (`no_shared_behavior`), or no problem of one has samples
            in all of them (`no_shared_samples`).
    """
    for first, second in combinations(runs, 2):
        check_comparable(first, second)
    shared = [
        one.behavior.name for one in runs[0].behaviors if all(one.behavior.name in run.settings["behaviors"] for run in runs)
    ]
    if not shared:
        raise RunError(
            f"compare: no behavior was measured in all of {', '.join(str(run.path) for run in runs)}; give runs with a behavior in common",
            code="no_shared_behavior",
        )
    sampled = [name for name in shared if CheckpointCounts.of([run[name] for run in runs]).ids]
    if not sampled:
        raise RunError(
            f"compare: {', '.join(shared)} has no problem with samples in all of {', '.join(str(run.path) for run in runs)}; see the validity "
            "checks in their reports",
            code="no_shared_samples",
        )
    return sampled


def compare_behavior_along(
    sides: Sequence[DiagnosedBehavior], counts: CheckpointCounts, *, margin: float, thresholds: ChangeThresholds
) -> CheckpointBehaviorEntry:
    """Compare one behavior at several checkpoints.

    Args:
        sides: The behavior in each run; the first is what changes are taken against.
        counts: Their samples.
        margin: The largest drop of pass@1 that does not matter.
        thresholds: What decides whether a problem changed.
    """
    behavior, rng = sides[0].behavior, np.random.default_rng(0)
    primary = behavior.measure.primary_k
    ks = [
        k for k in stats.k_grid(primary if counts.adaptive else counts.fewest, primary) if counts.adaptive or k <= counts.fewest
    ]
    curves, changes = _bands(counts, ks, rng)
    shared = replace(thresholds, false_discovery_rate=thresholds.false_discovery_rate / (len(sides) - 1))
    later = range(1, len(sides))
    states = [[row.state for row in problem_changes(counts.pair(0, index), behavior.measure.epsilon, shared)] for index in later]
    directions = [_directions(counts, index, shared.false_discovery_rate) for index in later]
    retained = _retention_states(counts, margin, rng) if behavior.purpose is Purpose.RETENTION else [None] * len(sides)
    points = []
    for index, side in enumerate(sides):
        beside = {row.name: row.after for row in side_by_side(sides[0], side)}
        first = index == 0
        moved = Counter([] if first or counts.adaptive else directions[index - 1])
        points.append(
            CheckpointPointEntry(
                pass_at_k=_entries(ks, curves[index]),
                change=[] if first else _entries(ks, changes[index - 1]),
                states={} if first else dict(sorted(Counter(states[index - 1]).items())),
                num_risen=None if first or counts.adaptive else moved[Direction.ROSE],
                num_fallen=None if first or counts.adaptive else moved[Direction.FELL],
                retention=retained[index],
                tokens=EstimateEntry.model_validate(beside["generated tokens per sample"]),
                truncated=EstimateEntry.model_validate(beside["truncated share"]),
            )
        )
    groups = {problem.id: problem.group for problem in behavior.problems}
    tables = (counts.n.T.tolist(), counts.c.T.tolist(), counts.missing.T.tolist())
    columns = zip(counts.ids, *tables, zip(*states, strict=True), zip(*directions, strict=True), strict=True)
    return CheckpointBehaviorEntry(
        name=behavior.name,
        purpose=behavior.purpose,
        measure={"primary_k": primary, "epsilon": behavior.measure.epsilon},
        num_problems=len(counts.ids),
        shown_k=max(k for k in ks if k <= primary),
        points=points,
        problems=[
            CheckpointProblemEntry(
                id=id_,
                group=groups.get(id_),
                num_samples=n,
                num_correct=c,
                num_missing=missing,
                states=[None, *of],
                directions=[None, *ways],
            )
            for id_, n, c, missing, of, ways in columns
        ],
    )


def _retention_states(counts: CheckpointCounts, margin: float, rng: np.random.Generator) -> list[RetentionState]:
    """Return whether each checkpoint kept pass@1 within the margin of the first."""
    later = range(1, len(counts.n))
    if counts.adaptive:
        level = 1.0 - (1.0 - RETENTION_LEVEL) / len(later)
    else:
        values = counts.pass_at_ks([1])[0]
        level = stats.simultaneous_level(values[:, 1:] - values[:, :1], counts.units, rng=rng, level=RETENTION_LEVEL)
    changes = [pass_at_k_changes(counts.pair(0, index), [1], level=level)[0] for index in later]
    return [RetentionState.KEPT, *(_retention_state(change, margin) for change in changes)]


def _retention_state(change: Interval, margin: float) -> RetentionState:
    if change.low >= -margin:
        return RetentionState.KEPT
    return RetentionState.LOST if change.high < 0.0 else RetentionState.OPEN


def _bands(
    counts: CheckpointCounts, ks: Sequence[int], rng: np.random.Generator
) -> tuple[list[list[Interval]], list[list[Interval]]]:
    """Return [C, K] intervals of pass@k, and [C − 1, K] of its change against the first, each family at once at `LEVEL`."""
    size = len(counts.n)
    if counts.adaptive:
        # Posterior means vary less than rates, so their correlation would be too high: each interval pays for itself.
        levels = [1.0 - (1.0 - LEVEL) / (number * len(ks)) for number in (size, size - 1)]
    else:
        values = counts.pass_at_ks(ks)
        families = (values, values[:, :, 1:] - values[:, :, :1])
        levels = [
            stats.simultaneous_level(np.concatenate(list(one), axis=1), counts.units, rng=rng, level=LEVEL) for one in families
        ]
    pairs = [counts.pair(0, index) for index in range(1, size)]
    curves = [_curve(pair, ks, levels[0], after=True) for pair in pairs]
    first = _curve(pairs[0], ks, levels[0], after=False)
    changes = [pass_at_k_changes(pair, ks, level=levels[1]) for pair in pairs]
    named = [[_at_once(row, of) for row in rows] for rows, of in (([first, *curves], size), (changes, size - 1))]
    return named[0], named[1]


def _curve(counts: PairedCounts, ks: Sequence[int], level: float, *, after: bool) -> list[Interval]:
    """Return pass@k of one of two runs with intervals of this level, and the estimates of `LEVEL`, which its own report shows.

    By likelihood, whether an estimate counts as identified depends on the width of its interval: how many numbers are shown beside it must not decide that.
    """
    wide = pass_at_k_curve(counts, ks, after=after, level=level)
    if not counts.adaptive:
        return wide
    alone = pass_at_k_curve(counts, ks, after=after, level=LEVEL)
    return [replace(one, low=band.low, high=band.high) for one, band in zip(alone, wide, strict=True)]


def _at_once(row: Sequence[Interval], size: int) -> list[Interval]:
    """Name the family that the intervals of a row hold in."""
    return [replace(one, method=f"{one.method}; all {size * len(row)} intervals at once") for one in row]


def _directions(counts: CheckpointCounts, index: int, rate: float) -> list[Direction | None]:
    """Return which way the success rate of each problem moved since the first checkpoint, at this false-discovery rate."""
    if counts.adaptive:  # exact tests need sample counts that do not depend on outcomes
        return [None] * len(counts.ids)
    tests = stats.problem_change_tests(*counts.pair(0, index).counts, rate=rate)
    ways = zip(tests.q_expansion <= rate, tests.q_attrition <= rate, strict=True)
    return [Direction.ROSE if rose else Direction.FELL if fell else None for rose, fell in ways]


def _entries(ks: Sequence[int], values: Sequence[Interval]) -> list[PassAtKEntry]:
    return [
        PassAtKEntry(k=k, estimate=one.estimate, low=one.low, high=one.high, method=one.method)
        for k, one in zip(ks, values, strict=True)
    ]
