"""What decides whether groups of samples carry a learning signal, counted per problem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import GroupOutcomes, ScoreTies
from posttrain.analysis.stats.arrays import distinct_pairs
from posttrain.diagnose.measure.derailed_samples import derailed_samples
from posttrain.diagnose.storage.rollout_table import Bools, RolloutTable
from posttrain.diagnose.types import Behavior, Problem, reaches

_DECIMALS = 6
"""Scores that differ by less are one reward, as in training."""


def group_outcomes(behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable) -> GroupOutcomes:
    """Count the samples of each problem as a trainer rewards them: by their score, 0 where they are truncated.

    Samples that derailed count among those that are just wrong: a higher limit would not make them right.

    Args:
        behavior: What was measured.
        problems: In the order of the arrays that are returned.
        rollouts: All samples; greedy ones are left out.
    """
    success = behavior.measure.success
    place = rollouts.places([problem.id for problem in problems])
    sampled = (place >= 0) & ~rollouts.greedy
    known = sampled & ~rollouts.missing
    right = known & rollouts.succeeded(success)
    lenient = right | (known & ~rollouts.truncated & reaches(rollouts.lenient_score, success))
    unread = rollouts.unparsed | rollouts.unfinished_thought

    def count(which: Bools) -> npt.NDArray[np.int64]:
        return np.bincount(place[which], minlength=len(problems))

    scores = np.nan_to_num(rollouts.score)
    rewards = np.where(rollouts.truncated, 0.0, scores).astype(np.float64).round(_DECIMALS)
    graded, missing = count(known), count(sampled & rollouts.missing)
    number = graded + missing
    return GroupOutcomes(
        num_samples=graded,
        num_correct=count(right),
        num_lenient=count(lenient),
        num_truncated=count(known & ~lenient & rollouts.truncated & ~derailed_samples(rollouts)),
        num_unread=count(known & ~lenient & unread & ~rollouts.truncated),
        num_missing=missing,
        groups=tuple(problem.group or problem.id for problem in problems),
        equally=bool((number == number[:1]).all()),
        failures=_ties(place, rewards, known & ~right),
        successes=_ties(place, rewards, right),
    )


def _ties(place: npt.NDArray[np.int64], rewards: npt.NDArray[np.float64], which: Bools) -> ScoreTies | None:
    """Return how many of these samples of each problem have one reward; None where all of them have the same."""
    different, values = np.unique(rewards[which], return_inverse=True)
    if len(different) < 2:
        return None
    rows, _, counts = distinct_pairs(place[which], values.reshape(-1))
    return ScoreTies(rows[:, 0], counts)
