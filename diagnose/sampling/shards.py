"""The sampling probe: samples of every problem and one greedy sample beside them, graded and counted. `rounds` says how many.

Unparsed and truncated samples are failures, counted apart. Only verifier errors, timeouts and engine failures are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.engines.base import Completion, Engine, ManyBatches, OnTokens, SampleRequest
from posttrain.diagnose.storage.rollout_table import GREEDY, SAMPLED, Bools, RolloutTable
from posttrain.diagnose.types import Behavior, Grade, Problem, Rollout, SamplingMeasurement, Split

GradeTexts = Callable[[Problem, Sequence[str]], list[Grade]]
_ROWS_PER_SHARD = 256
_MOST_SHARDS = 512


class Portion(NamedTuple):
    """Some samples of one problem: number `first` and those after it, `num` in all."""

    problem: Problem
    first: int
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Work that is drawn and stored as a whole: what is batched together depends on it alone."""

    name: str
    decoding: str
    portions: tuple[Portion, ...]

    @property
    def num_samples(self) -> int:
        """Rows of the shard."""
        return sum(portion.num for portion in self.portions)


def plan_greedy(behavior: Behavior, split: Split) -> list[Shard]:
    """One greedy sample of every problem of a split."""
    return _cut(behavior, split, GREEDY, [Portion(problem, 0, 1) for problem in behavior.split(split)], 0)


def plan_round(
    behavior: Behavior, split: Split, drawn: npt.NDArray[np.int64], extra: npt.NDArray[np.int64], first_shard: int
) -> list[Shard]:
    """Further samples of the problems of a split.

    Args:
        behavior: Whose problems.
        split: Which of them, P in number.
        drawn: [P] samples that each has already.
        extra: [P] samples that each is to get.
        first_shard: Number of the first shard; the rounds before have the numbers below.
    """
    portions = [
        Portion(problem, int(first), int(num))
        for problem, first, num in zip(behavior.split(split), drawn, extra, strict=True)
        if num
    ]
    return _cut(behavior, split, SAMPLED, portions, first_shard)


def _cut(behavior: Behavior, split: Split, decoding: str, portions: Sequence[Portion], first_shard: int) -> list[Shard]:
    """Shards of at most `rows` samples each, in the order of the portions; one portion stays whole.

    Opening a file costs as much as reading a few hundred rows, so a round of many samples is cut into 512 shards at most.
    """
    rows = max(_ROWS_PER_SHARD, sum(p.num for p in portions) // _MOST_SHARDS)
    groups: list[list[Portion]] = []
    filled = 0
    for portion in portions:
        if not groups or filled + portion.num > rows:
            groups.append([])
            filled = 0
        groups[-1].append(portion)
        filled += portion.num
    return [
        Shard(name=f"{behavior.name}.{split}-{decoding}.{first_shard + number:05d}", decoding=decoding, portions=tuple(group))
        for number, group in enumerate(groups)
    ]


def draw(
    engine: Engine, grade: GradeTexts, behavior: Behavior, shards: Sequence[Shard], *, seed: str, on_tokens: OnTokens
) -> Iterator[tuple[Shard, list[Rollout]]]:
    """Sample and grade shards of one decoding, each as soon as it is done; a pool of engines works on several at a time.

    Args:
        engine: What samples.
        grade: Grades the texts of one problem.
        behavior: Whose settings apply.
        shards: Which problems, how often, and greedily or not.
        seed: Names the run; sample i of a problem depends on (seed, behavior, problem, decoding, i) and on the shard's batch shape.
        on_tokens: Progress.
    """
    if not shards:
        return
    sampling = replace(behavior.sampling, temperature=0.0) if shards[0].decoding == GREEDY else behavior.sampling
    batches = [_requests(engine, behavior, shard) for shard in shards]
    if isinstance(engine, ManyBatches):
        drawn = engine.sample_batches(batches, sampling, seed=seed, on_tokens=on_tokens)
    else:
        drawn = ((i, engine.sample(batch, sampling, seed=seed, on_tokens=on_tokens)) for i, batch in enumerate(batches))
    for index, completions in drawn:
        yield shards[index], list(_graded(engine, grade, behavior, shards[index], completions))


def _requests(engine: Engine, behavior: Behavior, shard: Shard) -> list[SampleRequest]:
    return [
        SampleRequest(
            key=f"{behavior.name}/{portion.problem.id}/{shard.decoding}",
            prompt_ids=engine.codec.encode_prompt(portion.problem.prompt, behavior.prompt).token_ids,
            num_samples=portion.num,
            first_sample=portion.first,
        )
        for portion in shard.portions
    ]


def _graded(
    engine: Engine, grade: GradeTexts, behavior: Behavior, shard: Shard, drawn: Sequence[Sequence[Completion]]
) -> Iterator[Rollout]:
    for (problem, first, _), completions in zip(shard.portions, drawn, strict=True):
        grades = grade(problem, [completion.text for completion in completions])
        for index, (completion, one) in enumerate(zip(completions, grades, strict=True), start=first):
            yield Rollout(
                behavior=behavior.name,
                problem_id=problem.id,
                split=problem.split,
                sample_index=index,
                decoding=shard.decoding,
                token_ids=completion.token_ids,
                policy_logprobs=completion.policy_logprobs,
                sampler_logprobs=completion.sampler_logprobs,
                stop=completion.stop,
                text=completion.text,
                grade=one,
                engine=engine.info.fingerprint,
            )


def measure(behavior: Behavior, problems: Sequence[Problem], rollouts: RolloutTable) -> SamplingMeasurement:
    """Count outcomes per problem, in the order of `problems`."""
    place = rollouts.places([problem.id for problem in problems])
    succeeded = rollouts.succeeded(behavior.measure.success)
    lenient = succeeded | (~rollouts.truncated & (rollouts.lenient_score >= behavior.measure.success))
    sampled = (place >= 0) & ~rollouts.greedy
    known = sampled & ~rollouts.missing

    def count(which: Bools) -> npt.NDArray[np.int64]:
        return np.bincount(place[which], minlength=len(problems))

    greedy = np.full(len(problems), np.nan)
    decided = (place >= 0) & rollouts.greedy & ~rollouts.missing
    greedy[place[decided]] = succeeded[decided]
    return SamplingMeasurement(
        behavior=behavior.name,
        problem_ids=tuple(problem.id for problem in problems),
        groups=tuple(problem.group or problem.id for problem in problems),
        num_samples=count(known),
        num_correct=count(known & succeeded),
        num_missing=count(sampled & rollouts.missing),
        num_unparsed=count(known & rollouts.unparsed),
        num_truncated=count(known & rollouts.truncated),
        num_lenient_correct=count(known & lenient),
        greedy_correct=greedy,
        num_tokens=np.bincount(place[sampled], weights=rollouts.num_tokens[sampled], minlength=len(problems)).astype(np.int64),
    )
