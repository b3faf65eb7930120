"""The samples of a round, cut into shards that are sampled, graded and stored as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.behaviors.answer_span import GradeTexts
from posttrain.diagnose.engines.base import Completion, Engine, ManyBatches, OnTokens, SampleRequest
from posttrain.diagnose.engines.stop_texts import count_tokens
from posttrain.diagnose.storage.rollout_table import GREEDY, SAMPLED
from posttrain.diagnose.types import Behavior, Cost, Problem, Rollout, Split
from posttrain.diagnose.verifiers.thinking import grade_after_prompt

ROWS_PER_SHARD = 256
PILOT_SAMPLES = 8
"""Greedy samples that are taken before all others, to see whether the settings fit the model."""
MOST_SHARDS = 512
"""Shards of a round at most: opening a file costs as much as reading a few hundred rows."""


class Portion(NamedTuple):
    """Some samples of one problem: number `first` and those after it, `num` in all."""

    problem: Problem
    first: int
    num: int
    given_text: str = ""
    """Start of the answer that the model was given; the verifier reads it before what was generated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Work that is sampled and stored as a whole: what is batched together depends on it alone."""

    name: str
    """`<behavior>.<split>-<decoding>.<round>-<shard>-of-<shards of the round>`."""
    decoding: str
    portions: tuple[Portion, ...]

    @property
    def num_samples(self) -> int:
        """Rows of the shard."""
        return sum(portion.num for portion in self.portions)


def plan_greedy(behavior: Behavior, split: Split, rows: int = ROWS_PER_SHARD) -> list[Shard]:
    """Return the shards of one greedy sample of every problem of a split, each of that number of rows; the first is the pilot."""
    problems = behavior.split(split)
    chosen = {i * len(problems) // PILOT_SAMPLES for i in range(PILOT_SAMPLES)}  # spread over the file
    ordered = [*(problems[i] for i in sorted(chosen)), *(one for i, one in enumerate(problems) if i not in chosen)]
    portions = [Portion(problem, 0, 1) for problem in ordered]
    return _cut(portions, f"{behavior.name}.{split}-{GREEDY}.0000", GREEDY, rows, first=PILOT_SAMPLES)


def plan_round(
    behavior: Behavior,
    split: Split,
    num_sampled: npt.NDArray[np.int64],
    extra: npt.NDArray[np.int64],
    number: int,
    rows: int = ROWS_PER_SHARD,
) -> list[Shard]:
    """Return the shards of further samples of the problems of a split.

    Args:
        behavior: Whose problems.
        split: Which of them, P in number.
        num_sampled: [P] samples that each problem has.
        extra: [P] samples that each problem is to get.
        number: Of the round, from 0.
        rows: Samples of a shard.
    """
    portions = [
        Portion(problem, int(first), int(num))
        for problem, first, num in zip(behavior.split(split), num_sampled, extra, strict=True)
        if num
    ]
    return _cut(portions, f"{behavior.name}.{split}-{SAMPLED}.{number:04d}", SAMPLED, rows)


def _cut(portions: Sequence[Portion], name: str, decoding: str, rows: int, first: int | None = None) -> list[Shard]:
    """Cut a round into shards of `rows` samples, in the order of the portions; one portion stays whole, and a large round has larger shards.

    The first shard has at most `first` samples, where that is given.
    """
    rows = max(rows, sum(portion.num for portion in portions) // MOST_SHARDS)
    groups: list[list[Portion]] = []
    filled = 0
    for portion in portions:
        if not groups or filled + portion.num > (min(rows, first) if first is not None and len(groups) == 1 else rows):
            groups.append([])
            filled = 0
        groups[-1].append(portion)
        filled += portion.num
    return [
        Shard(name=f"{name}-{index:05d}-of-{len(groups):05d}", decoding=decoding, portions=tuple(group))
        for index, group in enumerate(groups)
    ]


def sample_shards(
    engine: Engine, grade: GradeTexts, behavior: Behavior, shards: Sequence[Shard], *, seed: str, on_tokens: OnTokens
) -> Iterator[tuple[Shard, list[Rollout]]]:
    """Sample and grade shards of one decoding, each as soon as it is done; a pool of engines works on several at a time.

    Args:
        engine: What samples.
        grade: Grades the texts of one problem.
        behavior: Whose settings apply.
        shards: Which problems, how often, and greedily or not.
        seed: Random seed for sampling; sample i of a problem depends on (seed, behavior, problem, decoding, i) and on the shard's batch shape.
        on_tokens: Progress.
    """
    if not shards:
        return
    sampling = replace(behavior.sampling, temperature=0.0) if shards[0].decoding == GREEDY else behavior.sampling
    batches = [_requests(engine, behavior, shard) for shard in shards]
    if isinstance(engine, ManyBatches):
        sampled = engine.sample_batches(batches, sampling, seed=seed, on_tokens=on_tokens)
    else:
        sampled = ((i, engine.sample(batch, sampling, seed=seed, on_tokens=on_tokens)) for i, batch in enumerate(batches))
    for index, completions in sampled:
        shard = shards[index]
        yield shard, grade_samples(engine, grade, behavior, shard.decoding, shard.portions, completions)


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


def grade_samples(
    engine: Engine,
    grade: GradeTexts,
    behavior: Behavior,
    decoding: str,
    portions: Sequence[Portion],
    sampled: Sequence[Sequence[Completion]],
) -> list[Rollout]:
    """Return the samples of some problems with their grades.

    Args:
        engine: What sampled.
        grade: Grades the texts of one problem.
        behavior: Whose problems.
        decoding: Names how they were sampled.
        portions: N problems with the number of their first sample.
        sampled: [N] the samples of each.
    """
    rollouts = []
    for (problem, first, _, given_text), completions in zip(portions, sampled, strict=True):
        texts = [given_text + completion.text for completion in completions]
        prompt = engine.codec.encode_prompt(problem.prompt, behavior.prompt)
        grades = grade_after_prompt(grade, problem, texts, prompt.text, behavior.prompt)
        for index, (completion, text, one) in enumerate(zip(completions, texts, grades, strict=True), start=first):
            rollouts.append(
                Rollout(
                    behavior=behavior.name,
                    problem_id=problem.id,
                    split=problem.split,
                    sample_index=index,
                    decoding=decoding,
                    token_ids=completion.token_ids,
                    policy_logprobs=completion.policy_logprobs,
                    sampler_logprobs=completion.sampler_logprobs,
                    stop=completion.stop,
                    text=text,
                    grade=one,
                    engine=engine.info.fingerprint,
                    num_thought_tokens=count_tokens(engine.codec, completion.token_ids, one.answer_start - len(given_text)),
                )
            )
    return rollouts


def sampling_cost(rollouts: Sequence[Rollout], seconds: float) -> Cost:
    """Return what samples took."""
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return Cost(seconds=seconds, generated_tokens=tokens, samples=len(rollouts))
