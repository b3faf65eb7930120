"""Counting successes.

Unparsed and truncated samples, and thoughts without an end, are failures, counted apart. Only verifier errors, timeouts and engine failures are missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.storage.rollout_table import Bools, RolloutTable
from posttrain.diagnose.types import Behavior, Problem, SamplingMeasurement, reaches


def count_successes(behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable) -> SamplingMeasurement:
    """Count the outcomes of each problem, in the order of `problems`."""
    place = rollouts.places([problem.id for problem in problems])
    succeeded = rollouts.succeeded(behavior.measure.success)
    lenient = succeeded | (~rollouts.truncated & reaches(rollouts.lenient_score, behavior.measure.success))
    sampled = (place >= 0) & ~rollouts.greedy
    known = sampled & ~rollouts.missing

    def count(which: Bools) -> npt.NDArray[np.int64]:
        return np.bincount(place[which], minlength=len(problems))

    def total(numbers: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        return np.bincount(place[sampled], weights=numbers[sampled], minlength=len(problems)).astype(np.int64)

    greedy = np.full(len(problems), np.nan)
    decided = (place >= 0) & rollouts.greedy & ~rollouts.missing
    greedy[place[decided]] = succeeded[decided]
    return SamplingMeasurement(
        problem_ids=tuple(problem.id for problem in problems),
        groups=tuple(problem.group or problem.id for problem in problems),
        num_samples=count(known),
        num_correct=count(known & succeeded),
        num_missing=count(sampled & rollouts.missing),
        num_unparsed=count(known & rollouts.unparsed),
        num_truncated=count(known & rollouts.truncated),
        num_unfinished_thoughts=count(known & rollouts.unfinished_thought),
        num_lenient_correct=count(known & lenient),
        greedy_correct=greedy,
        num_tokens=total(rollouts.num_tokens),
        num_thought_tokens=total(rollouts.num_thought_tokens),
    )
