"""How probes sample and score: stored like every other sample, within a budget, with a record of what it cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.behaviors.answer_span import GradeTexts
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, SampleRequest, ScoreRequest, TokenScores
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.sampling import shards
from posttrain.diagnose.storage.rollout_table import to_rollouts
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.shard_file import read_shard, rows_of
from posttrain.diagnose.types import Behavior, Problem, Rollout, Sampling, Split

FOLDER = "probes"
"""Of a run directory: samples as parquet, findings as JSON."""


class PromptRequest(NamedTuple):
    """Samples of one problem that start from a prompt and perhaps from a part of an answer."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    num: int
    given_ids: tuple[int, ...] = ()
    """Tokens of the answer that the model is given; it goes on from them."""
    given_text: str = ""
    """Their text, which the verifier reads before what was generated."""
    first: int = 0
    """Number of the first sample: samples of one condition and problem are numbered on from call to call."""


@dataclass(kw_only=True)
class ProbeSampler:
    """Samples and scores for one probe of one behavior, and records what that cost."""

    probe: str
    behavior: Behavior
    split: Split
    policy: Engine
    grade: GradeTexts
    seed: str
    directory: RunDirectory
    reporter: Reporter
    budget: int
    """Tokens that may be generated at most."""
    samples: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    teacher_tokens: int = 0
    """Tokens that the teacher scored."""
    num_calls: int = 0
    """Calls of `sample` so far; they number the stored shards."""

    @property
    def tokens_left(self) -> int:
        """Return tokens that may still be generated."""
        return self.budget - self.generated_tokens

    def prompt(self, problem: Problem, engine: Engine | None = None) -> EncodedPrompt:
        """Return a problem's prompt as an engine reads it, the policy where None."""
        return (engine or self.policy).codec.encode_prompt(problem.prompt, self.behavior.prompt)

    def sample(
        self,
        prompt_requests: Sequence[PromptRequest],
        *,
        condition: str,
        sampling: Sampling | None = None,
        engine: Engine | None = None,
    ) -> list[list[Rollout]]:
        """Sample, grade and store; what is stored already is read back instead.

        Args:
            prompt_requests: What to sample; calls must come in the same order whenever the probe runs on the same counts.
            condition: Names what differs from plain sampling, `prefix 0.50` for example; part of the generators' key.
            sampling: Settings, the behavior's own where None.
            engine: What samples, the policy where None.

        Returns:
            One list per entry of `prompt_requests`, its samples in order. Their text starts with `given_text`; `token_ids` are the
            generated ones.
        """
        engine, sampling = engine or self.policy, sampling or self.behavior.sampling
        name = f"{self.behavior.name}.{self.split}-{self.probe}.{self.num_calls:05d}"
        self.num_calls += 1
        path = self.directory.shard(FOLDER, name)
        if not path.exists():
            start = time.monotonic()
            num_samples = sum(one.num for one in prompt_requests)
            with self.reporter.task(f"{self.probe}: {self.behavior.name}, {condition}", num_samples) as task:
                rollouts = self._sample(prompt_requests, condition, sampling, engine, task.tokens)
                task.advance(len(rollouts))
            cost = shards.sampling_cost(rollouts, time.monotonic() - start)
            self.directory.write_rollouts(name, rollouts, cost, kind=FOLDER)
        shard = read_shard(path, self.directory.identity)
        self.samples += shard.record["samples"]
        self.generated_tokens += shard.record["generated_tokens"]
        found = iter(rows_of(path, shard.table(), to_rollouts))
        return [[next(found) for _ in range(one.num)] for one in prompt_requests]

    def _sample(
        self, prompt_requests: Sequence[PromptRequest], condition: str, sampling: Sampling, engine: Engine, on_tokens: Any
    ) -> list[Rollout]:
        requests = [
            SampleRequest(
                key=f"{self.behavior.name}/{one.problem.id}/{self.probe}: {condition}",
                prompt_ids=(*one.prompt_ids, *one.given_ids),
                num_samples=one.num,
                first_sample=one.first,
            )
            for one in prompt_requests
        ]
        sampled = engine.sample(requests, sampling, seed=self.seed, on_tokens=on_tokens)
        portions = [shards.Portion(one.problem, one.first, one.num, one.given_text) for one in prompt_requests]
        return shards.grade_samples(engine, self.grade, self.behavior, condition, portions, sampled)

    def score(
        self, requests: Sequence[ScoreRequest], *, what: str, engine: Engine | None = None, is_teacher: bool = False
    ) -> list[TokenScores]:
        """Return log-probabilities of paths; nothing is stored, so score what is cheap to score again.

        Args:
            requests: What to score.
            what: Names it, for the progress line.
            engine: What scores, the policy where None.
            is_teacher: Whether the tokens count as the teacher's.
        """
        with self.reporter.task(f"{self.probe}: {self.behavior.name}, {what}", None) as task:
            scores = (engine or self.policy).score(requests, on_tokens=task.tokens)
        tokens = sum(len(request.path_ids) for request in requests)
        if is_teacher:
            self.teacher_tokens += tokens
        else:
            self.scored_tokens += tokens
        return scores

    def total_logprobs(
        self,
        rollouts: Sequence[Rollout],
        paths: Sequence[tuple[int, ...]],
        *,
        what: str,
        engine: Engine | None = None,
        is_teacher: bool = False,
    ) -> npt.NDArray[np.float64]:
        """Return [N] summed log-probabilities, nats, of rollouts of this behavior; `paths` are their tokens as the engine reads them."""
        problems = {problem.id: problem for problem in self.behavior.problems}
        prompts = {name: self.prompt(problems[name], engine).token_ids for name in {one.problem_id for one in rollouts}}
        requests = [
            ScoreRequest(prompt_ids=prompts[one.problem_id], path_ids=path) for one, path in zip(rollouts, paths, strict=True)
        ]
        scores = self.score(requests, what=what, engine=engine, is_teacher=is_teacher)
        return np.array([one.logprobs.sum(dtype=np.float64) for one in scores], dtype=np.float64)
