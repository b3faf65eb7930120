"""What turns are worth: pass@(k, T) and the label, where only samples count that succeed within T turns of the model.

A sample that needed more turns counts as a failure at T. The samples were taken under the limit of their environment, not under T: a policy that knew of
fewer turns might have ended sooner, so that the numbers at small T are lower bounds of what it could do with them.

Only samples of environments have turns, and those were imported: how many there are of a problem does not depend on what they showed, so that pass@k is
counted, up to the k that every problem has samples for. An extrapolated one need not grow with T.

Source: pass@(k, T), arXiv 2604.14877.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from posttrain.diagnose.decide.checks import check_measurements, pass_at_k_curve
from posttrain.diagnose.decide.evidence import Measurements
from posttrain.diagnose.decide.verdict import label_samples
from posttrain.diagnose.measure.label_posterior import posterior_of
from posttrain.diagnose.measure.pass_at_k import estimate_pass_at_k
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Estimate, PassAtK, TurnLimit

_MOST_LIMITS = 8


def decide_turn_limits(
    measured: Measurements, table: RolloutTable, thresholds: Thresholds, *, seed: int = 0
) -> tuple[TurnLimit, ...]:
    """Return pass@(k, T) and the label for a few T up to the most turns that a sample took.

    Args:
        measured: What was measured of a behavior.
        table: Its samples.
        thresholds: Every number that a label depends on.
        seed: Random seed of the posterior draws.

    Returns:
        One entry for each T, in increasing order, with pass@1 and pass@k for the primary k, or for the largest k below it that every problem has samples
        for; none where no sample took more than one turn, or none has a known outcome.
    """
    counts = measured.counts
    places = table.places(counts.problem_ids)
    known = (places >= 0) & ~table.greedy & ~table.missing
    turns = table.num_turns[known]
    if not turns.size or turns.max() <= 1:
        return ()
    succeeded, problem = table.succeeded(measured.behavior.measure.success)[known], places[known]
    fewest = int(counts.num_samples[counts.num_samples > 0].min())
    ks = sorted({1, min(measured.behavior.measure.primary_k, fewest)})
    found = []
    for limit in choose_limits(int(turns.max())):
        correct = np.bincount(problem[succeeded & (turns <= limit)], minlength=len(counts.problem_ids)).astype(np.int64)
        within = replace(measured, counts=replace(counts, num_correct=correct, num_lenient_correct=correct))
        posterior = posterior_of(within.counts, epsilon=measured.behavior.measure.epsilon, thresholds=thresholds, seed=seed)
        checks = check_measurements(within, posterior, pass_at_k_curve(within, posterior, thresholds.level), thresholds)
        label = label_samples(within, posterior, checks, thresholds, seed)
        values = estimate_pass_at_k(counts.num_samples, correct, counts.groups, ks, level=thresholds.level, equally=True)
        found.append(
            TurnLimit(
                turns=limit,
                num_samples=int(counts.num_samples.sum()),
                num_correct=int(correct.sum()),
                pass_at_k=tuple(
                    PassAtK(k=k, value=Estimate.of(value), extrapolated=False) for k, value in zip(ks, values, strict=True)
                ),
                bottleneck=label.label,
                confidence=label.confidence,
                leans_to=label.most_likely,
            )
        )
    return tuple(found)


def choose_limits(most: int) -> Sequence[int]:
    """Return the numbers of turns to report: every one where they are few, else doubling ones, and always the most that a sample took."""
    if most <= _MOST_LIMITS:
        return range(1, most + 1)
    doubling = [2**i for i in range(_MOST_LIMITS - 1) if 2**i < most]
    return [*doubling, most]
