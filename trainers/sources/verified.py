"""Rows that the policy drew and a verifier confirmed, collected once before training: on-policy data, imitated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.sources.demonstrations import FixedRows
from posttrain.trainers.sources.policy import sample_graded
from posttrain.trainers.types import Batch, GradeFn, TrainingProblem, TrainingRow, TrainingSet


def select_verified(rows: Sequence[TrainingRow], success: Mapping[str, float], max_per_problem: int) -> list[TrainingRow]:
    """Right, finished, distinct by text, at most so many per problem; a problem with a single success keeps it.

    Args:
        rows: Graded samples; truncated ones have reward 0 and fall out.
        success: The score that counts as a success, by the behavior's name.
        max_per_problem: The first ones drawn are kept, which is a random choice.
    """
    kept: dict[tuple[str, str], dict[str, TrainingRow]] = {}
    for row in rows:
        if row.reward is None or row.reward < success[row.behavior]:
            continue
        texts = kept.setdefault((row.behavior, row.problem_id), {})
        if len(texts) < max_per_problem:
            texts.setdefault(row.text.strip(), row)
    return [row for texts in kept.values() for row in texts.values()]


class VerifiedSource:
    """Samples every train problem once, keeps what is verified, and deals it out in epochs.

    Args:
        engine: Samples the model as it is at the start.
        graders: By the behavior's name.
        training_set: Its train problems are drawn from.
        num_samples: n per problem.
        temperature: Of the draw.
        max_per_problem: Rows kept per problem.
        rows_per_batch: Rows in one optimizer batch.
        num_steps: Batches; None takes `num_epochs` passes.
        num_epochs: Passes over the kept rows.
        seed: Of draws and order.
    """

    def __init__(
        self,
        engine: Engine,
        graders: Mapping[str, GradeFn],
        training_set: TrainingSet,
        *,
        num_samples: int,
        temperature: float,
        max_per_problem: int,
        rows_per_batch: int,
        num_steps: int | None,
        num_epochs: float,
        seed: int,
    ) -> None:
        self.engine, self.graders, self.training_set = engine, graders, training_set
        self.num_samples, self.temperature, self.max_per_problem = num_samples, temperature, max_per_problem
        self.rows_per_batch, self.num_steps, self.num_epochs, self.seed = rows_per_batch, num_steps, num_epochs, seed
        self._kept: FixedRows | None = None

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Draw, grade and select; 0 batches where nothing was right."""
        items: Sequence[TrainingProblem] = self.training_set.train
        drawn = sample_graded(
            self.engine, self.graders, items, num_samples=self.num_samples, temperature=self.temperature, seed=f"rft|{self.seed}"
        )
        success = {name: behavior.measure.success for name, behavior in self.training_set.behaviors.items()}
        rows = select_verified(drawn, success, self.max_per_problem)
        self._kept = FixedRows(
            rows, rows_per_batch=self.rows_per_batch, num_steps=self.num_steps, num_epochs=self.num_epochs, seed=self.seed
        )
        num_steps, metrics = self._kept.prepare()
        rewards = [row.reward for row in drawn if row.reward is not None]
        return num_steps, {
            **metrics,
            "sampled_rows": float(len(drawn)),
            "generated_tokens": float(sum(len(row.completion_ids) for row in drawn)),
            "reward": sum(rewards) / len(rewards) if rewards else float("nan"),
            "problems_without_success": 1 - metrics["problems"] / len(items),
        }

    def batch(self, step: int) -> Batch:
        """Kept rows of a step."""
        assert self._kept is not None, "prepare() comes first"
        return self._kept.batch(step)
