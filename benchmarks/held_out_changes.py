"""Runs of two models, before and after a change, on a held-out behavior: what a comparison says beside the truth.

Each function makes one run from a seed and returns a `Record`. Gates read entries as compare.json holds them; the rest is `compare_counts`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from held_out_library import (
    PRIMARY_K,
    THRESHOLDS,
    TOLERANCE,
    Record,
    change_entry,
    compare,
    compare_with_null,
    interval_of,
    kind_of,
    paired_counts,
    sample_in_rounds,
)
from held_out_rates import CHANGES, EPSILON, Array

from posttrain.diagnose.comparison.change_role import ObservedRole, RoleNote, RoleVerdict
from posttrain.diagnose.comparison.transition import BehaviorTransition
from posttrain.diagnose.types import ProblemChange


def deltas_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior before and after a change: the change of counted means."""
    rng = np.random.default_rng([8, seed, num_problems, n, list(CHANGES).index(family)])
    pair = CHANGES[family](rng)
    first, last = pair.draw(rng, num_problems)
    samples, record, population = np.full(num_problems, n), Record(), pair.population
    none = np.zeros_like(samples)
    before, after = rng.binomial(samples, first), rng.binomial(samples, last)
    measured = change_entry(paired_counts((samples, before, none), (samples, after, none)))
    for k, name in ((1, "Δ pass@1"), (n, "Δ pass@n")):
        record.note(name, interval_of(measured, f"delta pass@{k}"), _mean_change(population, k))
    return record


def change_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior before and after a change, and compare: changes at all k, the kind of the role, problems, nulls."""
    rng = np.random.default_rng([4, seed, num_problems, n, list(CHANGES).index(family)])
    pair = CHANGES[family](rng)
    first, last = pair.draw(rng, num_problems)
    samples, record, population = np.full(num_problems, n), Record(), pair.population
    found = compare(samples, rng.binomial(samples, first), rng.binomial(samples, last))
    inside = [
        point.value.low - TOLERANCE <= _mean_change(population, point.k) <= point.value.high + TOLERANCE
        for point in found.pass_at_k_delta
    ]
    width = float(np.mean([point.value.high - point.value.low for point in found.pass_at_k_delta]))
    record.intervals["Δ at all k"] = (1, 1, all(inside), 0, width)
    _note_crossing(record, found, population, n)
    _note_role(record, found.role, population, first, last)
    _note_states(record, [row.state for row in found.changes], first, last)
    return record


def null_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one model twice: the role that it gets, and support dynamics beside their null."""
    rng = np.random.default_rng([11, seed, num_problems, n])
    rates, _ = CHANGES["unchanged"](rng).draw(rng, num_problems)
    samples, record = np.full(num_problems, n), Record()
    role, support = compare_with_null(samples, rng.binomial(samples, rates), rng.binomial(samples, rates), seed)
    record.rates["a role is said"] = (float(role.role is not ObservedRole.NOT_DISTINGUISHABLE), 1)
    for row in support:
        value, low, high = row.value.estimate, row.null.low, row.null.high
        if not np.isnan(value + low + high):
            record.rates[f"{row.name} above its null"] = (float(value > high + 1e-12), 1)
            record.rates[f"{row.name} below its null"] = (float(value < low - 1e-12), 1)
    return record


def adaptive_change_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior before and after a change, in rounds, and compare the two."""
    rng = np.random.default_rng([9, seed, num_problems, list(CHANGES).index(family)])
    pair = CHANGES[family](rng)
    first, last = pair.draw(rng, num_problems)
    none = np.zeros(num_problems, dtype=np.int64)
    sides = [(*sample_in_rounds(rng, rates, None, seed), none) for rates in (first, last)]
    measured, record = change_entry(paired_counts(*sides, adaptive=True)), Record()
    for k in (1, PRIMARY_K):
        record.note(f"Δ pass@{k}", interval_of(measured, f"delta pass@{k}"), _mean_change(pair.population, k))
    return record


def missing_change_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior before and after a change, and lose a twentieth of the samples after, failures all."""
    rng = np.random.default_rng([10, seed, num_problems, n, list(CHANGES).index(family)])
    pair = CHANGES[family](rng)
    first, last = pair.draw(rng, num_problems)
    samples, record = np.full(num_problems, n), Record()
    before, after = rng.binomial(samples, first), rng.binomial(samples, last)
    lost = rng.binomial(samples - after, 0.1)
    counts = paired_counts((samples, before, np.zeros_like(samples)), (samples - lost, after, lost))
    record.note("Δ pass@1, failures missing", interval_of(change_entry(counts), "delta pass@1"), _mean_change(pair.population, 1))
    return record


def _mean_change(population: tuple[Array, Array], k: int) -> float:
    return float(np.mean((1 - population[0]) ** k - (1 - population[1]) ** k))


def _note_role(record: Record, verdict: RoleVerdict, population: tuple[Array, Array], first: Array, last: Array) -> None:
    """Note the kind of a role against where the change of the population lies at the k of the role, and what is said of losses."""
    record.rates["a role is said"] = (float(verdict.role is not ObservedRole.NOT_DISTINGUISHABLE), 1)
    if RoleNote.PROBLEMS_LOST in verdict.notes:
        some_left = np.any((first >= EPSILON) & (last < EPSILON)) or np.any(
            (population[0] >= EPSILON) & (population[1] < EPSILON)
        )
        record.rates["with attrition, and nothing left support"] = (float(not some_left), 1)
    if verdict.k is None or not np.any(population[0] != population[1]):
        return
    change = (1 - population[0]) ** verdict.k - (1 - population[1]) ** verdict.k
    was, is_ = population[0] >= EPSILON, population[1] >= EPSILON
    entered, left, moved = (float(change[part].sum()) for part in (~was & is_, was & ~is_, was & is_))
    outside = entered > moved if verdict.gain else left < moved
    truth = "reshaping" if not outside else "expansion" if verdict.gain else "attrition"
    record.rates["gain and loss confused"] = (float(bool(change.sum() > 0) is not verdict.gain), 1)
    kind = kind_of(verdict)
    record.rates["the kind is open"] = (float(kind is None), 1)
    if kind is not None:
        record.labels.append((kind, THRESHOLDS.change.support_confidence, kind == truth))
    elif verdict.leans_outside is not None:
        record.labels.append(
            ("leans outside" if verdict.leans_outside else "leans inside", 0.5, verdict.leans_outside is outside)
        )


def _note_states(record: Record, states: Sequence[ProblemChange], first: Array, last: Array) -> None:
    """Note the share of problems called expanded or attrited that are not."""
    expanded = np.array([state is ProblemChange.EXPANDED for state in states])
    attrited = np.array([state is ProblemChange.ATTRITED for state in states])
    false = int((expanded & ~((first < EPSILON) & (last >= EPSILON))).sum())
    false += int((attrited & ~((first >= EPSILON) & (last < EPSILON))).sum())
    record.rates["problems called expanded or attrited that are not"] = (false / max(1, int((expanded | attrited).sum())), 1)


def _note_crossing(record: Record, found: BehaviorTransition, population: tuple[Array, Array], n: int) -> None:
    """Note whether the set for the first loss, and the interval of a crossing where one is given, hold the true k."""
    ks = np.arange(1, n + 1)
    change = np.array([_mean_change(population, int(k)) for k in ks])
    losses = ks[change < -1e-12]
    if (loss := found.first_loss) is not None:
        first = int(losses[0]) if losses.size else None
        inside = loss.high is None if first is None else loss.low is not None and loss.low <= first <= (loss.high or n)
        record.intervals["first k with a loss"] = (1, 1, inside, 0, float((loss.high or n) - (loss.low or n)))
    if (crossing := found.crossing) is not None and not np.isnan(crossing.k.estimate):
        after_gain = losses[losses > ks[change > 0][0]] if (change > 0).any() else losses[:0]
        truth = float(after_gain[0]) if after_gain.size else float("nan")
        low, high = crossing.k.low, crossing.k.high
        record.intervals["k of a crossing"] = (1, 1, low <= truth and truth - 1 <= high, 0, high - low)
