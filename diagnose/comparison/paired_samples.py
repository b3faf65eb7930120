"""Outcomes of two runs paired by problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, MixturePosterior, fit_mixture
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """Samples and successes of the problems that both runs sampled, and the samples whose outcome is missing."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """[P] group of each problem; an unrelated problem is a group of its own."""
    n_before: Ints
    """[P] samples with a known outcome."""
    c_before: Ints
    """[P] successes among them."""
    n_after: Ints
    c_after: Ints
    missing_before: Ints
    """[P] samples without an outcome: errors and timeouts of the verifier."""
    missing_after: Ints
    adaptive: bool
    """Whether sample counts depend on outcomes, so that changes are estimated by likelihood."""

    @property
    def counts(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Return samples and successes before, and after."""
        return self.n_before, self.c_before, self.n_after, self.c_after

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Return [P] whether a problem has a known outcome on both sides."""
        return (self.n_before > 0) & (self.n_after > 0)

    @property
    def fewest(self) -> int:
        """Return the fewest samples of a problem with known outcomes, on either side; 0 without any."""
        return (
            int(np.minimum(self.n_before, self.n_after)[self.known].min(initial=np.iinfo(np.int64).max))
            if self.known.any()
            else 0
        )

    @property
    def any_missing(self) -> bool:
        """Return whether a sample has no outcome."""
        return bool(self.missing_before.any() or self.missing_after.any())

    @cached_property
    def fits(self) -> tuple[MixturePosterior, MixturePosterior]:
        """Return the posteriors of the success rates before and after."""
        return fit_mixture(self.n_before, self.c_before, groups=self.units), fit_mixture(
            self.n_after, self.c_after, groups=self.units
        )

    @cached_property
    def units(self) -> Sequence[Any] | None:
        """Return [P] the group of each problem as a number; None where all problems are unrelated."""
        return group_units(self.groups)

    def impute(self, *, before: bool, after: bool) -> PairedCounts:
        """Return the counts with every missing sample of a side as a success, or as a failure."""
        none = np.zeros_like(self.n_before)
        return replace(
            self,
            n_before=self.n_before + self.missing_before,
            c_before=self.c_before + before * self.missing_before,
            n_after=self.n_after + self.missing_after,
            c_after=self.c_after + after * self.missing_after,
            missing_before=none,
            missing_after=none,
        )

    def bounds_of_change(self) -> tuple[PairedCounts, PairedCounts]:
        """Return the counts at which the change is smallest, and those at which it is largest."""
        return self.impute(before=True, after=False), self.impute(before=False, after=True)


def group_units(groups: Sequence[str]) -> Sequence[Any] | None:
    """Return [P] the group of each problem as a number; None where every problem is a group of its own."""
    index = np.unique(np.array(groups), return_inverse=True)[1].reshape(-1)
    return None if not index.size or int(index.max()) + 1 == index.size else index.tolist()


def bounded(
    counts: PairedCounts,
    estimate: Callable[[PairedCounts], Sequence[Interval]],
    extremes: Callable[[], tuple[PairedCounts, PairedCounts]],
) -> list[Interval]:
    """Estimate something from the known outcomes, with intervals that hold whatever the missing ones are.

    Args:
        counts: The counts.
        estimate: Takes counts and returns intervals.
        extremes: Returns the counts with the missing outcomes imputed such that the estimates are lowest, and highest.
    """
    found = list(estimate(counts))
    if not counts.any_missing:
        return found
    lowest, highest = (estimate(one) for one in extremes())
    return [
        Interval(
            one.estimate,
            min(one.low, low.low),
            max(one.high, high.high),
            f"{one.method}, missing samples as failures and as successes",
        )
        for one, low, high in zip(found, lowest, highest, strict=True)
    ]


def pair_counts(before: DiagnosedBehavior, after: DiagnosedBehavior) -> PairedCounts:
    """Count all samples of the problems that both runs sampled."""
    problems = before.behavior.problems
    sides = [count_outcomes(measured, [problem.id for problem in problems]) for measured in (before, after)]
    shared = np.flatnonzero(np.min([n + missing for n, _, missing in sides], axis=0))
    (n0, c0, missing0), (n1, c1, missing1) = ([array[shared] for array in side] for side in sides)
    return PairedCounts(
        ids=tuple(problems[i].id for i in shared),
        groups=tuple(problems[i].group or problems[i].id for i in shared),
        n_before=n0,
        c_before=c0,
        n_after=n1,
        c_after=c1,
        missing_before=missing0,
        missing_after=missing1,
        adaptive=is_adaptive(before, after),
    )


def pair_first(counts: PairedCounts, before: DiagnosedBehavior, after: DiagnosedBehavior) -> PairedCounts:
    """Count the first samples of the problems that both runs sampled, the same number on both sides.

    Where a run was sampled adaptively, the number of samples of a problem depends on their outcomes; then the same number of every
    problem is used, the fewest that any has.

    Args:
        counts: All samples of both runs, as `pair_counts` gives them.
        before: The behavior in the run before.
        after: The behavior in the run after.
    """
    n = np.where(counts.known, counts.fewest if counts.adaptive else np.minimum(counts.n_before, counts.n_after), 0)
    first = []
    for measured in (before, after):
        place, right = measured.table.known_outcomes(counts.ids, measured.behavior.measure.success)
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        first.append(np.bincount(place[right & (rank < n[place])], minlength=len(counts.ids)))
    return replace(counts, n_before=n, c_before=first[0], n_after=n, c_after=first[1])


def align_null(counts: PairedCounts, before: DiagnosedBehavior, null: DiagnosedBehavior) -> tuple[Ints, Ints]:
    """Return samples and successes of the null for the problems of `counts`; no samples where it lacks one."""
    paired = pair_first(pair_counts(before, null), before, null)
    place = {problem_id: i for i, problem_id in enumerate(paired.ids)}
    rows = np.array([place.get(problem_id, -1) for problem_id in counts.ids])
    return np.where(rows >= 0, paired.n_after[rows], 0), np.where(rows >= 0, paired.c_after[rows], 0)


def is_adaptive(*sides: DiagnosedBehavior) -> bool:
    """Return whether a side was sampled adaptively, so that its sample counts depend on outcomes."""
    return not all(measured.sampling.sampled_equally for measured in sides)


def count_outcomes(measured: DiagnosedBehavior, problem_ids: Sequence[str]) -> tuple[Ints, Ints, Ints]:
    """Return [P] samples with a known outcome, successes, and samples without an outcome; greedy ones are left out."""
    table, size = measured.table, len(problem_ids)
    place, right = table.known_outcomes(problem_ids, measured.behavior.measure.success)
    places = table.places(problem_ids)
    missing = places[(places >= 0) & ~table.greedy & table.missing]
    n, correct, lacking = (np.bincount(rows, minlength=size).astype(np.int64) for rows in (place, place[right], missing))
    return n, correct, lacking
