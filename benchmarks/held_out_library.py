"""How the held-out benchmarks call the library, and what they note of one run: the one place that knows its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from held_out_rates import (
    EPSILON,
    MASTERED,
    Array,
)
from numpy.typing import NDArray

from posttrain.analysis import stats
from posttrain.analysis.stats import Interval
from posttrain.diagnose.comparison.change_role import ObservedRole, RoleVerdict, decide_role
from posttrain.diagnose.comparison.compare_behavior import ComparisonOptions, compare_counts
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry, ProblemChangeEntry
from posttrain.diagnose.comparison.nulls import support_rows
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.comparison.transition import BehaviorTransition, ComparisonNote, SupportRow
from posttrain.diagnose.gates.conditions import parse_condition
from posttrain.diagnose.gates.metrics import MeasuredEntry, estimate_metric
from posttrain.diagnose.gates.required_effort import required_effort
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior, problem_labels
from posttrain.diagnose.sampling.plan import Goal, SampleCounts, next_round
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry
from posttrain.diagnose.storage.problem_json import ProblemEntry
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, MeasureSettings, Outcome, ProblemChange, Split, decide

Ints = NDArray[np.int64]
THRESHOLDS = Thresholds()
PRIMARY_K = 16
COMPARED = ComparisonOptions(margin=0.02, trained=frozenset(), stage=None, thresholds=THRESHOLDS.change)
CAP = 64
"""Samples per problem, on average, at which adaptive rounds end."""
SHARES = ("share_within_support", "share_missing_support", "share_poor_choice", "share_mastered")
BORDERLINE = "borderline"
"""Beside the families, for adaptive rounds: a label that hangs on one problem, or on a mean or rates close to a threshold."""
TOLERANCE = 1e-3
"""Of the truth of a population, which is a mean over a lattice."""
THRESHOLD_STEPS = (-0.05, -0.005, 0.0, 0.005, 0.05)
"""Where the thresholds of gates lie from the truth."""


def posterior_of(n: Ints, c: Ints, groups: tuple[str, ...] | None = None, seed: int = 0) -> LabelPosterior:
    """Return what the counts say about the label."""
    return label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, groups=groups, seed=seed)


def named_problems(known: LabelPosterior) -> Ints:
    """Return [P] index into `LABELS` of the label of each problem, −1 where it is open."""
    return problem_labels(known.mixture.interval_probabilities([EPSILON, MASTERED]), THRESHOLDS.confidence)


def problem_intervals(n: Ints, c: Ints) -> tuple[Array, Array]:
    """Return [P] each the ends of the intervals of single problems."""
    return stats.jeffreys_intervals(n, c, level=0.95)


def _others(entry: object, *given: str) -> dict[str, Any]:
    """Return the fields of an entry but those that are given."""
    return {name: value for name, value in vars(entry).items() if name not in given}


_PROBLEM = _others(
    ProblemEntry(id="", split=Split.EVAL, state=Bottleneck.INCONCLUSIVE, num_samples=0, num_correct=0),
    *("id", "group", "num_samples", "num_correct", "num_missing"),
)
_CHANGE = _others(
    ProblemChangeEntry(id="", before=0.0, after=0.0, state=ProblemChange.UNDETERMINED),
    *("id", "group", "n_before", "c_before", "missing_before", "n_after", "c_after", "missing_after"),
)
"""What a gate does not read; plain objects with the same fields are ten times as fast to make as entries."""


def run_entry(n: Ints, c: Ints, groups: tuple[str, ...] | None = None, missing: Ints | None = None) -> MeasuredEntry:
    """Return a behavior as diagnosis.json holds it."""
    lost = np.zeros_like(n) if missing is None else missing
    problems = tuple(
        SimpleNamespace(**_PROBLEM, id=f"p{i}", group=group, num_samples=samples, num_correct=correct, num_missing=gone)
        for i, (group, samples, correct, gone) in enumerate(
            zip(groups or [None] * n.size, n.tolist(), c.tolist(), lost.tolist(), strict=True)
        )
    )
    measure = {"epsilon": EPSILON, "primary_k": PRIMARY_K, "success": 1.0}
    entry = BehaviorEntry.model_construct(
        name="b", bottleneck=Bottleneck.INCONCLUSIVE, confidence=0.5, measure=measure, problems=problems
    )
    return MeasuredEntry(path=Path(), entry=entry, mastered=MASTERED)


def change_entry(counts: PairedCounts) -> MeasuredEntry:
    """Return a behavior as compare.json holds it."""
    columns = (counts.n_before, counts.c_before, counts.missing_before, counts.n_after, counts.c_after, counts.missing_after)
    names = ("n_before", "c_before", "missing_before", "n_after", "c_after", "missing_after")
    problems = tuple(
        SimpleNamespace(**_CHANGE, id=id_, group=group, **dict(zip(names, row, strict=True)))
        for id_, group, *row in zip(counts.ids, counts.groups, *(column.tolist() for column in columns), strict=True)
    )
    notes = (ComparisonNote.ADAPTIVE_SAMPLING,) if counts.adaptive else ()
    entry = BehaviorChangeEntry.model_construct(
        name="b",
        num_problems=len(problems),
        problems=problems,
        measure={"epsilon": EPSILON, "primary_k": PRIMARY_K},
        note_codes=notes,
    )
    return MeasuredEntry(path=Path(), entry=entry, mastered=MASTERED)


def interval_of(measured: MeasuredEntry, metric: str) -> Interval:
    """Return the interval of a metric, as a gate reads it."""
    return estimate_metric(measured, parse_condition(f"{metric}>=0.5"), 0.95)


def paired_counts(
    before: tuple[Ints, Ints, Ints],
    after: tuple[Ints, Ints, Ints],
    groups: tuple[str, ...] | None = None,
    *,
    adaptive: bool = False,
) -> PairedCounts:
    """Return samples with a known outcome, successes, and samples without one, before and after, as a comparison counts them."""
    (n0, c0, lost0), (n1, c1, lost1) = before, after
    ids = tuple(f"p{i}" for i in range(n0.size))
    return PairedCounts(
        ids=ids, groups=groups or ids, n_before=n0, c_before=c0, n_after=n1, c_after=c1, missing_before=lost0, missing_after=lost1,
        adaptive=adaptive,
    )  # fmt: skip


def compare(n: Ints, before: Ints, after: Ints) -> BehaviorTransition:
    """Compare two runs with the same numbers of samples as `posttrain compare` does."""
    none = np.zeros_like(n)
    counts = paired_counts((n, before, none), (n, after, none))
    measure = MeasureSettings(primary_k=PRIMARY_K, epsilon=EPSILON)
    return compare_counts("b", counts, counts, measure, COMPARED)


def compare_with_null(n: Ints, before: Ints, after: Ints, seed: int) -> tuple[RoleVerdict, Sequence[SupportRow]]:
    """Return the role of a change, and support dynamics beside their null, without the rest of a comparison."""
    none, rng = np.zeros_like(n), np.random.default_rng(seed)
    counts = paired_counts((n, before, none), (n, after, none))
    ks = [k for k in stats.k_grid(int(n.min()), PRIMARY_K) if k <= n.min()]
    role = decide_role(counts, ks, EPSILON, THRESHOLDS.change, rng=rng)
    return role, support_rows(counts, second=None, rng=rng)


def effort_of(measured: MeasuredEntry, text: str) -> tuple[int | None, int | None] | None:
    """Return the further samples, and the problems in total, that are said to decide a gate; None where it is decided or nothing is said."""
    condition = parse_condition(text)
    interval = estimate_metric(measured, condition, 0.95)
    if decide(condition.op, interval.low, interval.high, condition.threshold) is not Outcome.INCONCLUSIVE:
        return None
    effort = required_effort(measured, condition, interval, 0.95)
    return None if effort is None else (effort.samples, effort.problems)


def kind_of(verdict: RoleVerdict) -> str | None:
    """Return the kind that a role commits to; None where its place is open, or where nothing changed."""
    kinds = {
        ObservedRole.SUPPORT_EXPANSION: "expansion",
        ObservedRole.ATTRITION: "attrition",
        ObservedRole.POLICY_RESHAPING: "reshaping",
    }
    return kinds.get(verdict.role)


def sample_in_rounds(rng: np.random.Generator, rates: Array, groups: tuple[str, ...] | None, seed: int) -> tuple[Ints, Ints]:
    """Return [P] samples and successes of the adaptive rounds of the library."""
    n, c = np.zeros(rates.size, dtype=np.int64), np.zeros(rates.size, dtype=np.int64)
    goal = Goal(max_tokens=CAP * rates.size)
    while True:
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()), groups=groups)
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=PRIMARY_K, max_tokens=1, thresholds=THRESHOLDS, seed=seed)
        if plan.last:
            return n, c
        n, c = n + plan.extra, c + rng.binomial(plan.extra, rates)


@dataclass
class Record:
    """What one run found."""

    intervals: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """By quantity: of how many intervals, how many are identified, of these how many cover, how many others cover, sum of widths."""
    gates: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """By metric: whether each of the gates of `gate_errors` is false."""
    labels: list[tuple[str, float, bool]] = field(default_factory=list)
    """What is said (a label, the kind of a role), with which probability, and whether it is right."""
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By event: how often it happened, out of how many times."""

    def note(self, name: str, interval: Interval, truth: float) -> None:
        """Note whether an interval covers the truth, and the gates that read it."""
        known = not np.isnan(interval.estimate)
        covers = bool(interval.low - TOLERANCE <= truth <= interval.high + TOLERANCE)
        self.intervals[name] = (1, known, known and covers, not known and covers, interval.high - interval.low)
        self.gates[name] = gate_errors(interval, truth)


def gate_errors(interval: Interval, truth: float) -> tuple[int, ...]:
    """Return for `>=` and `<=` at each of `THRESHOLD_STEPS` from the truth whether the outcome is a false one."""
    errors = []
    for op in (">=", "<="):
        for step in THRESHOLD_STEPS:
            holds = step <= 0.0 if op == ">=" else step >= 0.0
            # At the truth itself, the lattice must not decide.
            slack = 0.0 if step else TOLERANCE if op == "<=" else -TOLERANCE
            outcome = decide(op, interval.low, interval.high, truth + step + slack)
            errors.append(int(outcome is Outcome.NOT_MET if holds else outcome is Outcome.MET))
    return tuple(errors)
