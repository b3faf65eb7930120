"""Rows sampled from a policy on train problems and graded: on-policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from posttrain.diagnose.engines.base import Completion, Engine, SampleRequest
from posttrain.diagnose.engines.limits import context_length
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Grade, Sampling, StopReason
from posttrain.diagnose.verifiers.thinking import grade_after_prompt
from posttrain.trainers.config import RolloutConfig, StudentConfig
from posttrain.trainers.credit.group import differ, group_indices
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.stage import Stateful, TrainingInputs
from posttrain.trainers.training_types import Batch, GradeFn, TrainingProblem, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRequest:
    """Request samples behind one prompt: a problem's own, or one that gives something away."""

    item: TrainingProblem
    prompt_ids: tuple[int, ...]
    given: str = ""
    """Text that stands at the end of the prompt and belongs to the answer, such as the beginning of a reference path."""
    name: str = ""
    """Of the group; empty takes the problem's."""


def problem_prompts(engine: Engine, items: Sequence[TrainingProblem]) -> list[RolloutRequest]:
    """Return the prompts of problems as they are measured."""
    return [
        RolloutRequest(item=item, prompt_ids=engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt).token_ids)
        for item in items
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutSampler:
    """Samples prompts and grades the samples; each of several processes takes a part of the prompts, and all of them get every row."""

    engine: Engine
    graders: Mapping[str, GradeFn] | None
    """By the behavior's name; None grades nothing."""
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    context: int | None = None
    """Tokens that prompt and sample may have together; a longer prompt than usual (with a hint, a part of an answer) gets shorter samples, or none."""

    def sample(self, requests: Sequence[RolloutRequest], *, num_samples: int, temperature: float, seed: str) -> list[TrainingRow]:
        """Sample every prompt and grade the samples; all processes must ask.

        Only the length limit and the stop texts are taken from the behavior's sampling settings: samples of a truncated policy would need
        a correction that their probabilities no longer contain. The engine's weights are not refreshed.

        Args:
            requests: What to sample, each at most once.
            num_samples: G, per prompt.
            temperature: 1 samples the policy itself.
            seed: Random seed for sampling: the same seed gives the same samples from the same weights.

        Returns:
            Rows in the order of the prompts, behavior by behavior, G each, fewer where the engine failed or nothing was generated. The reward
            is the grade's score, 0 for truncated samples, None where the grade is missing.

        Raises:
            SettingsError: A behavior without a grader.
        """
        for request in requests:
            if self.graders is not None and request.item.behavior.name not in self.graders:
                raise SettingsError(
                    f"no verifier was given for behavior {request.item.behavior.name!r}; on-policy stages need one",
                    code="no_verifier",
                )
        names = list(dict.fromkeys(request.item.behavior.name for request in requests))
        ordered = sorted(requests, key=lambda request: names.index(request.item.behavior.name))
        rank, size = self.processes.rank, self.processes.size
        own = self._sample_part(ordered[rank::size], num_samples=num_samples, temperature=temperature, seed=seed)
        parts = self.processes.all_gather(own)
        groups = [parts[number % size][number // size] for number in range(len(ordered))]
        return [row for group in groups for row in group]

    def sample_problems(self, items: Sequence[TrainingProblem], *, num_samples: int, seed: str) -> list[TrainingRow]:
        """Sample the policy itself on problems as they are measured; see `sample`."""
        return self.sample(problem_prompts(self.engine, items), num_samples=num_samples, temperature=1.0, seed=seed)

    def _sample_part(
        self, requests: Sequence[RolloutRequest], *, num_samples: int, temperature: float, seed: str
    ) -> list[list[TrainingRow]]:
        """Return the rows of each prompt of this process; the prompts of a behavior follow each other."""
        groups: list[list[TrainingRow]] = []
        for (_, max_tokens), group in groupby(requests, key=lambda request: (request.item.behavior.name, self._room(request))):
            members = list(group)
            if max_tokens < 1:
                groups += [[] for _ in members]
                continue
            sampling = Sampling(temperature=temperature, max_tokens=max_tokens, stop=members[0].item.behavior.sampling.stop)
            sample_requests = [
                SampleRequest(key=request.name or request.item.name, prompt_ids=request.prompt_ids, num_samples=num_samples)
                for request in members
            ]
            for request, sampled in zip(members, self.engine.sample(sample_requests, sampling, seed=seed), strict=True):
                groups.append(self._grade(request, sampled))
        return groups

    def _room(self, request: RolloutRequest) -> int:
        """Return how long a sample may become."""
        wanted = request.item.behavior.sampling.max_tokens
        return wanted if self.context is None else min(wanted, self.context - len(request.prompt_ids))

    def _grade(self, request: RolloutRequest, sampled: Sequence[Completion]) -> list[TrainingRow]:
        """Return the rows of one prompt."""
        item = request.item
        kept = [completion for completion in sampled if completion.token_ids and completion.stop is not StopReason.ERROR]
        texts = [request.given + completion.text for completion in kept]
        if kept and self.graders is not None:
            prompt = self.engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt)
            grades: Sequence[Grade | None] = grade_after_prompt(
                self.graders[item.behavior.name], item.problem, texts, prompt.text, item.behavior.prompt
            )
        else:
            grades = [None] * len(kept)
        return [
            TrainingRow(
                behavior=item.behavior.name,
                problem_id=item.problem.id,
                split=item.problem.split,
                group_id=request.name or item.name,
                prompt_ids=request.prompt_ids,
                completion_ids=completion.token_ids,
                sampler_logprobs=completion.sampler_logprobs,
                reward=None if grade is None else reward(completion.stop, grade),
                truncated=completion.stop is StopReason.LENGTH,
                text=text,
            )
            for completion, text, grade in zip(kept, texts, grades, strict=True)
        ]


def sampler_of(inputs: TrainingInputs, *, graded: bool = True) -> RolloutSampler:
    """Return what samples the model in training and grades with the verifiers of the inputs."""
    limits = inputs.lengths.limit, context_length(inputs.model.config)
    return RolloutSampler(
        engine=inputs.engine,
        graders=inputs.graders if graded else None,
        processes=inputs.processes,
        context=min((limit for limit in limits if limit is not None), default=None),
    )


def reward(stop: StopReason, grade: Grade) -> float | None:
    """Return the score in [0, 1]; 0 for a truncated sample, which never ended its turn; None where nothing is known, which a NaN says too."""
    if grade.missing or grade.score is None or not math.isfinite(grade.score):
        return None
    return 0.0 if stop is StopReason.LENGTH else grade.score


def num_tokens(rows: Sequence[TrainingRow]) -> float:
    """Count the completion tokens of rows."""
    return float(sum(len(row.completion_ids) for row in rows))


def has_signal(rows: Sequence[TrainingRow]) -> bool:
    """Return whether the rewards of a group differ."""
    return differ(float(row.reward or 0.0) for row in rows if row.is_graded)


PromptBuilder = Callable[[Sequence[TrainingProblem], int], Sequence[RolloutRequest]]
"""(problems of a batch, step) → the prompts to sample."""
RowBuilder = Callable[[Sequence[TrainingProblem], Sequence[TrainingRow], int], Sequence[TrainingRow]]
"""(problems of a batch, their graded samples, step) → the rows to train on."""


@dataclass(frozen=True, kw_only=True)
class PolicySource:
    """Sample the policy in training afresh for every batch."""

    sampler: RolloutSampler
    """Of the model in training, which it takes over before each batch."""
    items: Sequence[TrainingProblem]
    """Train problems, visited in shuffled epochs."""
    config: RolloutConfig | StudentConfig
    """How much is sampled: P problems (fewer where there are not as many), G samples of each, the steps, and the random seed."""
    num_updates: int = 1
    """Optimizer steps per batch."""
    max_resamples: int = 0
    """How many further times P problems are sampled to fill a batch with groups whose rewards differ; the others are then left out
    (DAPO's dynamic sampling, arXiv 2503.14476). 0 keeps every group."""
    build_prompts: PromptBuilder | None = None
    """Chooses the prompts; None takes the problems as they are."""
    build_rows: RowBuilder | None = None
    """Makes the rows to train on from the samples; None takes the samples."""
    memory: Stateful | None = None
    """Holds what `build_prompts` and `build_rows` know from earlier steps, where they know anything."""

    @cached_property
    def _order(self) -> EpochOrder:
        return EpochOrder(len(self.items), min(self.config.problems_per_batch, len(self.items)), self.config.seed)

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Return the number of batches; nothing is sampled in advance."""
        return self.config.num_steps, {"problems": float(len(self.items))}

    def batch(self, step: int) -> Batch:
        """Return P·G graded samples of the policy as it is now."""
        self.sampler.engine.refresh()
        num_steps, max_resamples = self.config.num_steps, self.max_resamples
        kept: list[TrainingRow] = []
        sampled: list[TrainingRow] = []
        items: list[TrainingProblem] = []
        for attempt in range(1 + max_resamples):
            # Further problems come from the end of the order, so that the first samples are the same with and without them.
            members = self._members(step if attempt == 0 else num_steps + step * max_resamples + attempt - 1)
            found = self._sample(members, step, f"{step}|{attempt}" if attempt else f"{step}")
            items += members
            sampled += found
            if not max_resamples:
                kept = found
                break
            kept += [row for group in _groups(found) if has_signal(group) for row in group]
            if len({row.group_id for row in kept}) >= self._order.batch_size:
                break
        if max_resamples:
            chosen = list(dict.fromkeys(row.group_id for row in kept))[: self._order.batch_size]
            kept = [row for row in kept if row.group_id in chosen]
        metrics = {
            "generated_tokens": num_tokens(sampled),
            "sampled_rows": float(len(sampled)),
            "sampled_length": num_tokens(sampled) / max(1, len(sampled)),
            "truncated": sum(row.truncated for row in sampled) / max(1, len(sampled)),
        }
        if max_resamples:
            metrics["sampled_groups"] = float(len(_groups(sampled)))
        rows = self.build_rows(items, kept, step) if self.build_rows else kept
        return Batch(rows=tuple(rows), metrics=metrics, num_updates=self.num_updates)

    def state(self) -> dict[str, Any]:
        """See `Stateful`."""
        return self.memory.state() if self.memory is not None else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        if self.memory is not None:
            self.memory.load(state)

    def _members(self, step: int) -> list[TrainingProblem]:
        return [self.items[index] for index in dict.fromkeys(self._order.batch(step))]

    def _sample(self, items: Sequence[TrainingProblem], step: int, name: str) -> list[TrainingRow]:
        """Sample problems; the name of the attempt makes the samples and their groups differ from those of every other one."""
        requests = self.build_prompts(items, step) if self.build_prompts else problem_prompts(self.sampler.engine, items)
        seed = f"train|{self.config.seed}|{name}"
        sampled = self.sampler.sample(requests, num_samples=self.config.group_size, temperature=1.0, seed=seed)
        return [replace(row, group_id=f"{row.group_id}@{name}") for row in sampled]


def _groups(rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
    return [[rows[index] for index in members] for members in group_indices(rows).values()]
