"""Runs of one model on a held-out behavior: what the library says beside the truth.

Each function makes one run from a seed and returns a `Record`. Intervals are those of gates (`estimate_metric` on the entries of
diagnosis.json).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from held_out_library import (
    BORDERLINE,
    PRIMARY_K,
    SHARES,
    Record,
    change_entry,
    effort_of,
    interval_of,
    named_problems,
    paired_counts,
    posterior_of,
    problem_intervals,
    run_entry,
    sample_in_rounds,
)
from held_out_rates import EPSILON, FAMILIES, LABELS, Array, borderline, clustered, true_label, true_problem_labels, true_shares

from posttrain.diagnose.gates.metrics import MeasuredEntry
from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.measure.pass_at_k import estimate_pass_at_k
from posttrain.diagnose.types import Outcome, decide


def means_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior n times: what is counted without a fit."""
    rng = np.random.default_rng([7, seed, num_problems, n, list(FAMILIES).index(family)])
    behavior = FAMILIES[family](rng)
    rates, groups = behavior.draw(rng, num_problems)
    samples, record, population = np.full(num_problems, n), Record(), behavior.population
    c = rng.binomial(samples, rates)
    measured = run_entry(samples, c, groups)
    for k, name in ((1, "pass@1"), (n, "pass@n")):
        record.note(name, interval_of(measured, f"pass@{k}"), float(np.mean(1 - (1 - population) ** k)))
    low, high = problem_intervals(samples, c)
    covered = float(((low - 1e-9 <= rates) & (rates <= high + 1e-9)).sum())
    record.intervals["single problems"] = (num_problems, num_problems, covered, 0, float((high - low).sum()))
    return record


def one_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior n times: what is fitted, and labels."""
    rng = np.random.default_rng([1, seed, num_problems, n, list(FAMILIES).index(family)])
    behavior = FAMILIES[family](rng)
    rates, groups = behavior.draw(rng, num_problems)
    samples = np.full(num_problems, n)
    c = rng.binomial(samples, rates)
    known, measured, record = posterior_of(samples, c, groups, seed), run_entry(samples, c, groups), Record()
    population = behavior.population
    record.note("pass@4n", interval_of(measured, f"pass@{4 * n}"), float(np.mean(1 - (1 - population) ** (4 * n))))
    far = estimate_pass_at_k(samples, c, _names(num_problems, groups), [32 * n], level=0.95, equally=True, mixture=known.mixture)[
        0
    ]
    record.note("pass@32n", far, float(np.mean(1 - (1 - population) ** (32 * n))))
    _note_shares(record, measured, rates, population)
    _note_labels(record, known, rates)
    return record


def adaptive_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior in rounds until its label is decided."""
    rng = np.random.default_rng([2, seed, num_problems, [*FAMILIES, BORDERLINE].index(family)])
    if family == BORDERLINE:
        rates = borderline(rng, num_problems)
        samples, c = sample_in_rounds(rng, rates, None, seed)
        record = Record(rates={"samples per problem": (float(samples.mean()), 1)})
        _note_labels(record, posterior_of(samples, c, None, seed), rates)
        return record
    behavior = FAMILIES[family](rng)
    rates, groups = behavior.draw(rng, num_problems)
    samples, c = sample_in_rounds(rng, rates, groups, seed)
    known, record, population = posterior_of(samples, c, groups, seed), Record(), behavior.population
    _note_labels(record, known, rates)
    measured = run_entry(samples, c, groups)
    for k in (1, PRIMARY_K):
        record.note(f"pass@{k}", interval_of(measured, f"pass@{k}"), float(np.mean(1 - (1 - population) ** k)))
    _note_shares(record, measured, rates, population)
    record.rates["samples per problem"] = (float(samples.mean()), 1)
    return record


def clustered_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample related problems in a given number of groups: means that are counted, and means that are fitted."""
    num_groups = int(family.split()[0])
    rng = np.random.default_rng([3, seed, num_problems, n, num_groups])
    behavior = clustered(rng, num_groups)
    rates, groups = behavior.draw(rng, num_problems)
    samples, record, population = np.full(num_problems, n), Record(), behavior.population
    c = rng.binomial(samples, rates)
    names = _names(num_problems, groups)
    for k in (1, min(n, 4)):
        truth = float(np.mean(1 - (1 - population) ** k))
        for name, equally in ((f"pass@{k}", True), (f"fitted pass@{k}", False)):
            record.note(name, estimate_pass_at_k(samples, c, names, [k], level=0.95, equally=equally)[0], truth)
    none, again = np.zeros_like(samples), rng.binomial(samples, rates)
    counts = paired_counts((samples, c, none), (samples, again, none), groups)
    record.note("Δ pass@1, unchanged", interval_of(change_entry(counts), "delta pass@1"), 0.0)
    return record


def missing_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Sample one behavior and lose outcomes: half of them at random, or a part of the failures."""
    rng = np.random.default_rng([5, seed, num_problems, n, list(FAMILIES).index(family)])
    behavior = FAMILIES[family](rng)
    rates, groups = behavior.draw(rng, num_problems)
    samples, record, population = np.full(num_problems, n), Record(), behavior.population
    c = rng.binomial(samples, rates)
    half = rng.hypergeometric(c, samples - c, n // 2)
    lost_failures = rng.binomial(samples - c, 0.05)
    for name, lost, right in (("half missing", samples - n // 2, half), ("failures missing", lost_failures, c)):
        measured = run_entry(samples - lost, right, groups, lost)
        record.note(f"pass@1, {name}", interval_of(measured, "pass@1"), float(population.mean()))
        record.note(
            f"share_within_support, {name}", interval_of(measured, "share_within_support"), float((population >= EPSILON).mean())
        )
    return record


def settles_run(family: str, num_problems: int, n: int, seed: int) -> Record:
    """Spend the effort that is said to decide an open gate, where its assumption holds: the estimate is about right."""
    rng = np.random.default_rng([6, seed, num_problems, n, list(FAMILIES).index(family)])
    record = Record()
    for _ in range(100):
        behavior = FAMILIES[family](rng)
        rates, _ = behavior.draw(rng, num_problems)
        samples, truth = np.full(num_problems, n), float(behavior.population.mean())
        distance = float(rng.uniform(0.03, 0.15)) * float(rng.choice([-1, 1]))
        threshold = round(truth + distance, 4)
        c = rng.binomial(samples, rates)
        exact = abs(c.mean() / n - truth) < 0.15 * abs(distance)
        effort = effort_of(run_entry(samples, c), f"pass@1>={threshold}") if exact and 0.0 < threshold < 1.0 else None
        if effort is None:
            continue
        more, problems = effort
        if problems is not None and problems <= 20_000:
            others, _ = behavior.draw(rng, problems)
            measured = run_entry(np.full(problems, n), rng.binomial(n, others))
            record.rates["gates decided by the problems that were said to"] = (_decided(measured, threshold), 1)
        if more is not None and more / num_problems <= 20_000 and abs(rates.mean() - truth) < 0.15 * abs(distance):
            extra = int(np.ceil(more / num_problems))
            measured = run_entry(samples + extra, c + rng.binomial(extra, rates))
            record.rates["gates decided by the samples that were said to"] = (_decided(measured, threshold), 1)
        return record
    return record


def _decided(measured: MeasuredEntry, threshold: float) -> float:
    interval = interval_of(measured, "pass@1")
    return float(decide(">=", interval.low, interval.high, threshold) is not Outcome.INCONCLUSIVE)


def _names(num_problems: int, groups: tuple[str, ...] | None) -> Sequence[str]:
    return tuple(f"p{i}" for i in range(num_problems)) if groups is None else groups


def _note_shares(record: Record, measured: MeasuredEntry, rates: Array, population: Array) -> None:
    """Note each share against the truth that its words are about: of these problems, or of the population."""
    for metric in SHARES:
        interval = interval_of(measured, metric)
        of_these = "these problems" in interval.method
        record.note(metric, interval, true_shares(rates if of_these else population)[metric])


def _note_labels(record: Record, known: LabelPosterior, rates: Array) -> None:
    record.labels.append((known.label.value, float(known.confidence), known.label is true_label(rates)))
    named = named_problems(known)
    wrong = int(((named >= 0) & (named != true_problem_labels(rates))).sum())
    record.rates["problem labels wrong"] = (wrong / max(1, int((named >= 0).sum())), 1)
    record.rates["problem labels named"] = (float((named >= 0).mean()), 1)
    for index, label in enumerate(LABELS):
        if (named == index).any():
            share = float((true_problem_labels(rates)[named == index] != index).mean())
            record.rates[f"problems named {label.value} wrongly"] = (share, 1)
