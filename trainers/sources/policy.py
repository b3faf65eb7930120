"""Rows drawn from the policy in training on train problems, graded: on-policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from posttrain.diagnose.engines.base import Completion, Engine, SampleRequest
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Grade, Sampling, StopReason
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.types import Batch, GradeFn, LiveEngine, TrainingProblem, TrainingRow


def sample_graded(
    engine: Engine,
    graders: Mapping[str, GradeFn],
    items: Sequence[TrainingProblem],
    *,
    num_samples: int,
    temperature: float,
    seed: str,
) -> list[TrainingRow]:
    """Draw samples of every problem and grade them.

    Nothing but the length limit and the stop texts is taken from the behavior's sampling settings: a draw from a truncated
    policy would need a correction that its probabilities no longer contain.

    Args:
        engine: Samples; its weights are not refreshed here.
        graders: By the behavior's name.
        items: What to draw from, each at most once.
        num_samples: G, per problem.
        temperature: 1 draws from the policy itself.
        seed: Names the draw: the same seed gives the same samples from the same weights.

    Returns:
        Rows in the order of the problems, G each, fewer where the engine failed or nothing was generated. The reward is the
        grade's score, 0 for truncated samples, None where the grade is missing.

    Raises:
        SettingsError: A behavior without a grader.
    """
    for item in items:
        if item.behavior.name not in graders:
            raise SettingsError(f"no verifier was given for behavior {item.behavior.name!r}; on-policy stages need one")
    rows: list[TrainingRow] = []
    for name in dict.fromkeys(item.behavior.name for item in items):
        members = [item for item in items if item.behavior.name == name]
        behavior = members[0].behavior
        sampling = Sampling(temperature=temperature, max_tokens=behavior.sampling.max_tokens, stop=behavior.sampling.stop)
        prompts = [engine.encode_prompt(item.problem.prompt, behavior.prompt).token_ids for item in members]
        requests = [
            SampleRequest(key=item.name, prompt_ids=prompt, num_samples=num_samples)
            for item, prompt in zip(members, prompts, strict=True)
        ]
        for item, prompt, drawn in zip(members, prompts, engine.sample(requests, sampling, seed=seed), strict=True):
            kept = [completion for completion in drawn if completion.token_ids and completion.stop is not StopReason.ERROR]
            grades = graders[name](item.problem, [completion.text for completion in kept]) if kept else []
            for completion, grade in zip(kept, grades, strict=True):
                rows.append(
                    TrainingRow(
                        behavior=name,
                        problem_id=item.problem.id,
                        split=item.problem.split,
                        group_id=item.name,
                        prompt_ids=prompt,
                        completion_ids=completion.token_ids,
                        sampler_logprobs=completion.sampler_logprobs,
                        reward=reward(completion, grade),
                        text=completion.text,
                    )
                )
    return rows


def reward(completion: Completion, grade: Grade) -> float | None:
    """The score in [0, 1]; 0 for a truncated sample, which never ended its turn; None where nothing is known."""
    if grade.missing:
        return None
    return 0.0 if completion.stop is StopReason.LENGTH else grade.score


class PolicySource:
    """A fresh draw from the live policy for every batch.

    Args:
        engine: Samples the model in training; `refresh` is called before each draw.
        graders: By the behavior's name.
        items: Train problems, visited in shuffled epochs.
        problems_per_batch: P; fewer where there are not as many problems.
        group_size: G samples per problem.
        num_steps: Batches.
        num_updates: Optimizer steps per batch.
        seed: Of order and draws.
    """

    def __init__(
        self,
        engine: LiveEngine,
        graders: Mapping[str, GradeFn],
        items: Sequence[TrainingProblem],
        *,
        problems_per_batch: int,
        group_size: int,
        num_steps: int,
        num_updates: int,
        seed: int,
    ) -> None:
        self.engine, self.graders, self.items = engine, graders, tuple(items)
        self.group_size, self.num_steps, self.num_updates, self.seed = group_size, num_steps, num_updates, seed
        self._order = EpochOrder(len(self.items), min(problems_per_batch, len(self.items)), seed)

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Nothing to do in advance."""
        return self.num_steps, {"problems": float(len(self.items))}

    def batch(self, step: int) -> Batch:
        """P·G graded samples of the policy as it is now."""
        self.engine.refresh()
        items = [self.items[index] for index in dict.fromkeys(self._order.batch(step))]
        drawn = sample_graded(
            self.engine, self.graders, items, num_samples=self.group_size, temperature=1.0, seed=f"train|{self.seed}|{step}"
        )
        rows = tuple(replace(row, group_id=f"{row.group_id}@{step}") for row in drawn)
        metrics = {"generated_tokens": float(sum(len(row.completion_ids) for row in rows)), "sampled_rows": float(len(rows))}
        return Batch(rows=rows, metrics=metrics, num_updates=self.num_updates)
