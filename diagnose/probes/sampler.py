"""How probes sample and score: stored like every other sample, within a budget, with a record of what it cost."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from posttrain.diagnose.behaviors.answer_span import GradeTexts
from posttrain.diagnose.engines.base import Engine, SampleRequest, ScoreRequest, TokenScores
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.rollout_table import METADATA_KEY, to_rollouts
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior, Cost, Problem, Rollout, Sampling, Split

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

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """Return a problem's prompt as the policy reads it."""
        return self.policy.codec.encode_prompt(problem.prompt, self.behavior.prompt).token_ids

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
            tokens = sum(len(rollout.token_ids) for rollout in rollouts)
            cost = Cost(seconds=time.monotonic() - start, generated_tokens=tokens, samples=len(rollouts))
            self.directory.write_rollouts(name, rollouts, cost, kind=FOLDER)
        table = pq.ParquetFile(path).read()
        record = json.loads(table.schema.metadata[METADATA_KEY])
        self.samples += record["samples"]
        self.generated_tokens += record["generated_tokens"]
        found = iter(to_rollouts(table))
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
        rollouts = []
        sampled = engine.sample(requests, sampling, seed=self.seed, on_tokens=on_tokens)
        for one, completions in zip(prompt_requests, sampled, strict=True):
            texts = [one.given_text + completion.text for completion in completions]
            grades = self.grade(one.problem, texts)
            for index, (completion, text, grade) in enumerate(zip(completions, texts, grades, strict=True), start=one.first):
                rollouts.append(
                    Rollout(
                        behavior=self.behavior.name,
                        problem_id=one.problem.id,
                        split=one.problem.split,
                        sample_index=index,
                        decoding=condition,
                        token_ids=completion.token_ids,
                        policy_logprobs=completion.policy_logprobs,
                        sampler_logprobs=completion.sampler_logprobs,
                        stop=completion.stop,
                        text=text,
                        grade=grade,
                        engine=engine.info.fingerprint,
                    )
                )
        return rollouts

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
