"""The sampling probe: n samples per problem and one greedy sample beside them, graded and counted.

Unparsed and truncated samples are failures, counted apart. Only verifier errors, timeouts and engine failures are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.diagnose.engines.base import Engine, OnTokens, SampleRequest
from posttrain.diagnose.types import Behavior, Grade, GradeStatus, Problem, Rollout, SamplingMeasurement, Split

GradeTexts = Callable[[Problem, Sequence[str]], list[Grade]]
_ROWS_PER_SHARD = 256

SAMPLED, GREEDY = "sampled", "greedy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Work that is drawn and stored as a whole: what is batched together depends on it alone."""

    name: str
    problems: tuple[Problem, ...]
    decoding: str
    num_samples: int


def plan(behavior: Behavior, split: Split, num_samples: int) -> list[Shard]:
    """Cut the samples of a split into shards: whole problems, at most 256 rows each, the greedy ones first."""
    shards = []
    for decoding, per_problem in ((GREEDY, 1), (SAMPLED, num_samples)):
        problems = behavior.split(split)
        size = max(1, _ROWS_PER_SHARD // per_problem)
        for number, start in enumerate(range(0, len(problems), size)):
            shards.append(
                Shard(
                    name=f"{behavior.name}.{split}-{decoding}.{number:05d}",
                    problems=problems[start : start + size],
                    decoding=decoding,
                    num_samples=per_problem,
                )
            )
    return shards


def draw(engine: Engine, grade: GradeTexts, behavior: Behavior, shard: Shard, *, seed: str, on_tokens: OnTokens) -> list[Rollout]:
    """Sample and grade one shard.

    Args:
        engine: What samples.
        grade: Grades the texts of one problem.
        behavior: Whose settings apply.
        shard: Which problems, how often, and greedily or not.
        seed: Names the run; sample i of a problem depends on (seed, behavior, problem, decoding, i) and on the shard's batch shape.
        on_tokens: Progress.
    """
    sampling = replace(behavior.sampling, temperature=0.0) if shard.decoding == GREEDY else behavior.sampling
    requests = [
        SampleRequest(
            key=f"{behavior.name}/{problem.id}/{shard.decoding}",
            prompt_ids=engine.encode_prompt(problem.prompt, behavior.prompt).token_ids,
            num_samples=shard.num_samples,
        )
        for problem in shard.problems
    ]
    rollouts = []
    for problem, completions in zip(
        shard.problems, engine.sample(requests, sampling, seed=seed, on_tokens=on_tokens), strict=True
    ):
        grades = grade(problem, [completion.text for completion in completions])
        for index, (completion, one) in enumerate(zip(completions, grades, strict=True)):
            rollouts.append(
                Rollout(
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
            )
    return rollouts


def measure(behavior: Behavior, problems: Sequence[Problem], rollouts: Sequence[Rollout]) -> SamplingMeasurement:
    """Count outcomes per problem, in the order of `problems`."""
    place = {problem.id: i for i, problem in enumerate(problems)}
    counts = {
        name: np.zeros(len(problems), dtype=np.int64)
        for name in ("samples", "correct", "missing", "unparsed", "truncated", "lenient", "tokens")
    }
    greedy = np.full(len(problems), np.nan)
    for rollout in rollouts:
        if rollout.behavior != behavior.name or rollout.problem_id not in place:
            continue
        i = place[rollout.problem_id]
        success = rollout.succeeded(behavior.measure.success)
        if rollout.decoding == GREEDY:
            greedy[i] = np.nan if success is None else float(success)
            continue
        counts["tokens"][i] += len(rollout.token_ids)
        if success is None:
            counts["missing"][i] += 1
            continue
        lenient = rollout.grade.lenient_score
        counts["samples"][i] += 1
        counts["correct"][i] += success
        counts["unparsed"][i] += rollout.grade.status is GradeStatus.UNPARSED
        counts["truncated"][i] += rollout.truncated
        counts["lenient"][i] += success or (not rollout.truncated and lenient is not None and lenient >= behavior.measure.success)
    return SamplingMeasurement(
        behavior=behavior.name,
        problem_ids=tuple(problem.id for problem in problems),
        groups=tuple(problem.group or problem.id for problem in problems),
        num_samples=counts["samples"],
        num_correct=counts["correct"],
        num_missing=counts["missing"],
        num_unparsed=counts["unparsed"],
        num_truncated=counts["truncated"],
        num_lenient_correct=counts["lenient"],
        greedy_correct=greedy,
        num_tokens=counts["tokens"],
    )
