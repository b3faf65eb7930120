"""Samples of two runs paired by problem, the same number on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """Samples and successes of the problems that both runs sampled."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """[P] group of each problem; an unrelated problem is a group of its own."""
    n: Ints
    """[P] samples, the same on both sides."""
    before: Ints
    """[P] successes."""
    after: Ints
    """[P] successes."""


def pair_counts(before: DiagnosedBehavior, after: DiagnosedBehavior) -> PairedCounts:
    """Count the first samples of each problem, as many as both runs have.

    Where a run was sampled adaptively, the number of samples of a problem depends on their outcomes; then the same number of every problem
    is used, the fewest that any has.
    """
    problems = before.behavior.problems
    sides = [_known_outcomes(measured, [problem.id for problem in problems]) for measured in (before, after)]
    n = np.minimum(*(np.bincount(place, minlength=len(problems)) for place, _, _ in sides))
    shared = np.flatnonzero(n)
    if shared.size and is_adaptive(before, after):
        n = np.where(n > 0, n[shared].min(), 0)
    correct = [np.bincount(place[success & (rank < n[place])], minlength=len(problems))[shared] for place, success, rank in sides]
    return PairedCounts(
        ids=tuple(problems[i].id for i in shared),
        groups=tuple(problems[i].group or problems[i].id for i in shared),
        n=n[shared],
        before=correct[0],
        after=correct[1],
    )


def align_null(counts: PairedCounts, before: DiagnosedBehavior, null: DiagnosedBehavior) -> tuple[Ints, Ints]:
    """Return samples and successes of the null for the problems of `counts`; no samples where it lacks one."""
    paired = pair_counts(before, null)
    place = {problem_id: i for i, problem_id in enumerate(paired.ids)}
    rows = np.array([place.get(problem_id, -1) for problem_id in counts.ids])
    return np.where(rows >= 0, paired.n[rows], 0), np.where(rows >= 0, paired.after[rows], 0)


def is_adaptive(*sides: DiagnosedBehavior) -> bool:
    """Return whether a side was sampled adaptively, so that its sample counts depend on outcomes."""
    return not all(measured.sampling.sampled_equally for measured in sides)


def _known_outcomes(measured: DiagnosedBehavior, problem_ids: Sequence[str]) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """Return of every sample with a known outcome: the index of its problem, whether it succeeded, and its rank in that problem, from 0."""
    place, right = measured.table.known_outcomes(problem_ids, measured.behavior.measure.success)
    starts = np.searchsorted(place, place)  # where the samples of the same problem begin
    return place, right, np.arange(len(place)) - starts
