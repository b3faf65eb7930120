"""Metrics of a measured run or of a comparison, each with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posttrain.analysis import stats
from posttrain.analysis.stats import FloatArray, IntArray, Interval
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.comparison.pass_at_k_change import pass_at_k_changes
from posttrain.diagnose.comparison.transition import ComparisonNote
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.gates.conditions import SHARES, Condition
from posttrain.diagnose.importing.source_facts import KEY
from posttrain.diagnose.measure.pass_at_k import estimate_pass_at_k
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry
from posttrain.diagnose.storage.run_check import checked_table
from posttrain.diagnose.storage.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredEntry:
    """One behavior of diagnosis.json or compare.json, and where it was read."""

    path: Path
    """The run directory."""
    entry: BehaviorEntry | BehaviorChangeEntry
    mastered: float
    """Success rate from which a problem is mastered, as in the settings of the run."""


def estimate_metric(measured: MeasuredEntry, condition: Condition, level: float) -> Interval:
    """Estimate the metric of a condition on one behavior.

    Samples without an outcome widen the interval: they count as failures at its lower end and as successes at its upper end.

    Args:
        measured: The behavior.
        condition: Names the metric.
        level: Confidence.

    Raises:
        SettingsError: The comparison has fewer samples per problem than the k of the condition (code `k_above_samples`).
    """
    entry = measured.entry
    if isinstance(entry, BehaviorChangeEntry):
        return _pass_at_k_change(measured.path, entry, condition, level)
    if condition.metric == "greedy":
        return estimate_greedy(greedy_successes(measured.path, entry), groups_of(entry), level)
    return estimate_run_metric(measured, condition, counts_of(entry), groups_of(entry), level)


def estimate_run_metric(
    measured: MeasuredEntry,
    condition: Condition,
    counts: tuple[IntArray, IntArray, IntArray],
    groups: tuple[str, ...],
    level: float,
) -> Interval:
    """Estimate a metric of counts from the counts of problems.

    Args:
        measured: The behavior, for its thresholds.
        condition: Names the metric.
        counts: [P] samples with a known outcome, successes, and samples without an outcome.
        groups: [P] group of each problem.
        level: Confidence.
    """
    n, correct, missing = counts

    def estimate(n: IntArray, correct: IntArray) -> Interval:
        if condition.metric in SHARES:
            edges = (float(measured.entry.measure["epsilon"]), measured.mastered)
            return _share(n, correct, groups, edges, condition.metric, level)
        equally = bool(n.min() == n.max())
        return estimate_pass_at_k(n, correct, groups, [condition.k], level=level, equally=equally)[0]

    known = estimate(n, correct)
    if not missing.any():
        return known
    bounds = [estimate(n + missing, correct), estimate(n + missing, correct + missing)]
    low, high = min(bound.low for bound in bounds), max(bound.high for bound in bounds)
    return Interval(known.estimate, low, high, f"{known.method}, missing samples as failures and as successes")


def counts_of(entry: BehaviorEntry) -> tuple[IntArray, IntArray, IntArray]:
    """Return [P] samples with a known outcome, successes, and samples without an outcome."""
    rows = [(row.num_samples, row.num_correct, row.num_missing) for row in entry.problems]
    n, correct, missing = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return n, correct, missing


def groups_of(entry: BehaviorEntry | BehaviorChangeEntry) -> tuple[str, ...]:
    """Return [P] the group of each problem; an unrelated problem is a group of its own."""
    return tuple(row.group or row.id for row in entry.problems)


def paired_counts(entry: BehaviorChangeEntry) -> PairedCounts:
    """Return the counts of both runs; files of earlier versions hold rates and one number of samples."""
    rows = entry.problems
    columns = [
        (
            row.n_before if row.n_before is not None else row.num_samples or 0,
            row.c_before if row.c_before is not None else round((row.num_samples or 0) * row.before),
            row.missing_before,
            row.n_after if row.n_after is not None else row.num_samples or 0,
            row.c_after if row.c_after is not None else round((row.num_samples or 0) * row.after),
            row.missing_after,
        )
        for row in rows
    ]
    n0, c0, missing0, n1, c1, missing1 = np.array(columns, dtype=np.int64).reshape(-1, 6).T
    return PairedCounts(
        ids=tuple(row.id for row in rows),
        groups=groups_of(entry),
        n_before=n0,
        c_before=c0,
        n_after=n1,
        c_after=c1,
        missing_before=missing0,
        missing_after=missing1,
        adaptive=ComparisonNote.ADAPTIVE_SAMPLING in entry.note_codes,
    )


def _share(
    n: IntArray, correct: IntArray, groups: Sequence[str], edges: tuple[float, float], metric: str, level: float
) -> Interval:
    """Estimate the share of the population of problems with a label."""
    epsilon, mastered = edges
    low, high = {
        "share_within_support": (epsilon, 1.0),
        "share_missing_support": (0.0, epsilon),
        "share_poor_choice": (epsilon, mastered),
        "share_mastered": (mastered, 1.0),
    }[metric]
    return stats.fit_mixture(n, correct, groups=groups).share_between(low, high, level=level)


def greedy_successes(path: Path, entry: BehaviorEntry) -> FloatArray:
    """Return [P] 1 or 0 for the greedy sample of each problem, NaN where it has no outcome.

    Imported samples that were taken at temperature 0 are greedy ones.
    """
    directory = RunDirectory(path)
    table = checked_table(directory, entry.name)
    places = table.places([row.id for row in entry.problems])
    source = directory.read_json().get("settings", {}).get(KEY) or {}
    sampling = source.get("sampling") or {}
    known = (table.greedy | (sampling.get("temperature") == 0.0)) & (places >= 0)
    success = np.full(len(entry.problems), np.nan)
    outcome = np.where(table.missing, np.nan, table.succeeded(entry.measure["success"]))
    success[places[known]] = outcome[known]
    return success


def estimate_greedy(success: FloatArray, groups: tuple[str, ...], level: float) -> Interval:
    """Estimate pass@1 of greedy decoding from `greedy_successes`."""
    value = stats.mean_interval(success, groups, level=level)
    if not np.isnan(success).any():
        return value
    bounds = [stats.mean_interval(np.nan_to_num(success, nan=worst), groups, level=level) for worst in (0.0, 1.0)]
    return Interval(value.estimate, bounds[0].low, bounds[1].high, f"{value.method}, missing ones as failures and as successes")


def _pass_at_k_change(path: Path, entry: BehaviorChangeEntry, condition: Condition, level: float) -> Interval:
    """Estimate the mean paired change of pass@k; k was chosen in advance by the author of the condition."""
    counts = paired_counts(entry)
    most = max(counts.fewest, int(entry.measure.get("primary_k", 1))) if counts.adaptive else counts.fewest
    if condition.k > most:
        raise SettingsError(
            f"condition: got {condition.text!r}, {path} compares {counts.fewest} samples of each problem of {entry.name}; "
            f"give a k of at most {most}",
            code="k_above_samples",
        )
    return pass_at_k_changes(counts, [condition.k], level=level)[0]
