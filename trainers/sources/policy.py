"""Rows drawn from the policy in training on train problems, graded: on-policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.diagnose.engines.base import Completion, Engine, SampleRequest
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Grade, Sampling, StopReason
from posttrain.trainers.distributed.processes import current
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.stage import Stateful
from posttrain.trainers.training_types import Batch, GradeFn, TrainingProblem, TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutRequest:
    """A prompt to draw from: a problem's own, or one that gives something away."""

    item: TrainingProblem
    prompt_ids: tuple[int, ...]
    given: str = ""
    """Text that stands at the end of the prompt and belongs to the answer, such as the beginning of a reference path."""
    name: str = ""
    """Of the group; empty takes the problem's."""


def problem_prompts(engine: Engine, items: Sequence[TrainingProblem]) -> list[RolloutRequest]:
    """The problems as they are measured."""
    return [
        RolloutRequest(item=item, prompt_ids=engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt).token_ids)
        for item in items
    ]


def sample_rollouts(
    engine: Engine,
    graders: Mapping[str, GradeFn] | None,
    requests: Sequence[RolloutRequest],
    *,
    num_samples: int,
    temperature: float,
    seed: str,
) -> list[TrainingRow]:
    """Draw samples of every prompt and grade them; of several processes each draws and grades its share, and gets all rows.

    Nothing but the length limit and the stop texts is taken from the behavior's sampling settings: a draw from a truncated
    policy would need a correction that its probabilities no longer contain.

    Args:
        engine: Samples; its weights are not refreshed here.
        graders: By the behavior's name; None grades nothing.
        requests: What to draw from, each at most once.
        num_samples: G, per prompt.
        temperature: 1 draws from the policy itself.
        seed: Names the draw: the same seed gives the same samples from the same weights.

    Returns:
        Rows in the order of the prompts, behavior by behavior, G each, fewer where the engine failed or nothing was generated. The reward
        is the grade's score, 0 for truncated samples, None where the grade is missing.

    Raises:
        SettingsError: A behavior without a grader.
    """
    for request in requests:
        if graders is not None and request.item.behavior.name not in graders:
            raise SettingsError(f"no verifier was given for behavior {request.item.behavior.name!r}; on-policy stages need one")
    names = list(dict.fromkeys(request.item.behavior.name for request in requests))
    ordered = sorted(requests, key=lambda request: names.index(request.item.behavior.name))
    processes = current()
    own = ordered[processes.rank :: processes.size]
    shares = processes.all_gather(_sample_own(engine, graders, own, num_samples=num_samples, temperature=temperature, seed=seed))
    groups = [shares[number % processes.size][number // processes.size] for number in range(len(ordered))]
    return [row for group in groups for row in group]


def _sample_own(
    engine: Engine,
    graders: Mapping[str, GradeFn] | None,
    requests: Sequence[RolloutRequest],
    *,
    num_samples: int,
    temperature: float,
    seed: str,
) -> list[list[TrainingRow]]:
    """The rows of each prompt of this process; the prompts of a behavior follow each other."""
    groups: list[list[TrainingRow]] = []
    for name in dict.fromkeys(request.item.behavior.name for request in requests):
        members = [request for request in requests if request.item.behavior.name == name]
        behavior = members[0].item.behavior
        sampling = Sampling(temperature=temperature, max_tokens=behavior.sampling.max_tokens, stop=behavior.sampling.stop)
        sample_requests = [
            SampleRequest(key=request.name or request.item.name, prompt_ids=request.prompt_ids, num_samples=num_samples)
            for request in members
        ]
        for request, sampled in zip(members, engine.sample(sample_requests, sampling, seed=seed), strict=True):
            kept = [completion for completion in sampled if completion.token_ids and completion.stop is not StopReason.ERROR]
            texts = [request.given + completion.text for completion in kept]
            grades = graders[name](request.item.problem, texts) if kept and graders is not None else [None] * len(kept)
            groups.append(
                [
                    TrainingRow(
                        behavior=name,
                        problem_id=request.item.problem.id,
                        split=request.item.problem.split,
                        group_id=request.name or request.item.name,
                        prompt_ids=request.prompt_ids,
                        completion_ids=completion.token_ids,
                        sampler_logprobs=completion.sampler_logprobs,
                        reward=None if grade is None else reward(completion, grade),
                        truncated=completion.stop is StopReason.LENGTH,
                        text=text,
                    )
                    for completion, text, grade in zip(kept, texts, grades, strict=True)
                ]
            )
    return groups


def sample_graded(
    engine: Engine,
    graders: Mapping[str, GradeFn],
    items: Sequence[TrainingProblem],
    *,
    num_samples: int,
    temperature: float,
    seed: str,
) -> list[TrainingRow]:
    """`sample_rollouts` from problems as they are."""
    return sample_rollouts(
        engine, graders, problem_prompts(engine, items), num_samples=num_samples, temperature=temperature, seed=seed
    )


def reward(completion: Completion, grade: Grade) -> float | None:
    """The score in [0, 1]; 0 for a truncated sample, which never ended its turn; None where nothing is known."""
    if grade.missing:
        return None
    return 0.0 if completion.stop is StopReason.LENGTH else grade.score


def num_tokens(rows: Sequence[TrainingRow]) -> float:
    """Completion tokens of rows."""
    return float(sum(len(row.completion_ids) for row in rows))


def has_signal(rows: Sequence[TrainingRow]) -> bool:
    """Whether the rewards of a group differ."""
    return len({row.reward for row in rows if row.reward is not None}) > 1


PromptBuilder = Callable[[Sequence[TrainingProblem], int], Sequence[RolloutRequest]]
"""(problems of a batch, step) → the prompts to draw from."""
Finish = Callable[[Sequence[TrainingProblem], Sequence[TrainingRow], int], Sequence[TrainingRow]]
"""(problems of a batch, their graded samples, step) → the rows to train on."""


class PolicySource:
    """A fresh draw from the live policy for every batch.

    Args:
        engine: Samples the model in training; `refresh` is called before each draw.
        graders: By the behavior's name; None where nothing is graded.
        items: Train problems, visited in shuffled epochs.
        problems_per_batch: P; fewer where there are not as many problems.
        group_size: G samples per prompt.
        num_steps: Batches.
        num_updates: Optimizer steps per batch.
        seed: Of order and draws.
        max_resamples: How many further times P problems are drawn to fill a batch with groups whose rewards differ; the others are then left
            out (DAPO's dynamic sampling, arXiv 2503.14476). 0 keeps every group.
        build_prompts: Which prompts are drawn from; None takes the problems as they are.
        finish: What becomes of the samples; None trains on them as they are.
        memory: What `build_prompts` and `finish` know from earlier steps, where they know anything.
    """

    def __init__(
        self,
        engine: Engine,
        graders: Mapping[str, GradeFn] | None,
        items: Sequence[TrainingProblem],
        *,
        problems_per_batch: int,
        group_size: int,
        num_steps: int,
        num_updates: int,
        seed: int,
        max_resamples: int = 0,
        build_prompts: PromptBuilder | None = None,
        finish: Finish | None = None,
        memory: Stateful | None = None,
    ) -> None:
        self.engine, self.graders, self.items = engine, graders, tuple(items)
        self.group_size, self.num_steps, self.num_updates, self.seed = group_size, num_steps, num_updates, seed
        self.max_resamples, self._build_prompts, self._finish, self._memory = max_resamples, build_prompts, finish, memory
        self._order = EpochOrder(len(self.items), min(problems_per_batch, len(self.items)), seed)

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Nothing to do in advance."""
        return self.num_steps, {"problems": float(len(self.items))}

    def batch(self, step: int) -> Batch:
        """P·G graded samples of the policy as it is now."""
        self.engine.refresh()
        wanted = self._order.batch_size
        kept: list[TrainingRow] = []
        sampled: list[TrainingRow] = []
        items: list[TrainingProblem] = []
        for attempt in range(1 + self.max_resamples):
            # Further problems come from the end of the order, so that the first draw is the same with and without them.
            members = self._members(step if attempt == 0 else self.num_steps + step * self.max_resamples + attempt - 1)
            found = self._sample(members, step, f"train|{self.seed}|{step}" + (f"|{attempt}" if attempt else ""))
            items += members
            sampled += found
            if not self.max_resamples:
                kept = found
                break
            kept += [row for group in _groups(found) if has_signal(group) for row in group]
            if len({row.group_id for row in kept}) >= wanted:
                break
        if self.max_resamples:
            chosen = list(dict.fromkeys(row.group_id for row in kept))[:wanted]
            kept = [row for row in kept if row.group_id in chosen]
        metrics = {
            "generated_tokens": num_tokens(sampled),
            "sampled_rows": float(len(sampled)),
            "sampled_length": num_tokens(sampled) / max(1, len(sampled)),
            "truncated": sum(row.truncated for row in sampled) / max(1, len(sampled)),
        }
        if self.max_resamples:
            metrics["groups_drawn"] = float(len(_groups(sampled)))
        rows = self._finish(items, kept, step) if self._finish else kept
        return Batch(rows=tuple(rows), metrics=metrics, num_updates=self.num_updates)

    def state(self) -> dict[str, Any]:
        """See `Stateful`."""
        return self._memory.state() if self._memory is not None else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        if self._memory is not None:
            self._memory.load(state)

    def _members(self, step: int) -> list[TrainingProblem]:
        return [self.items[index] for index in dict.fromkeys(self._order.batch(step))]

    def _sample(self, items: Sequence[TrainingProblem], step: int, seed: str) -> list[TrainingRow]:
        requests = self._build_prompts(items, step) if self._build_prompts else problem_prompts(self.engine, items)
        sampled = sample_rollouts(self.engine, self.graders, requests, num_samples=self.group_size, temperature=1.0, seed=seed)
        return [replace(row, group_id=f"{row.group_id}@{seed.removeprefix(f'train|{self.seed}|')}") for row in sampled]


def _groups(rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
    groups: dict[str, list[TrainingRow]] = {}
    for row in rows:
        groups.setdefault(row.group_id, []).append(row)
    return list(groups.values())
