"""Rows from the reference paths of train problems: off-policy, somebody else wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.types import Batch, TrainingProblem, TrainingRow


def encode_references(engine: Engine, items: Sequence[TrainingProblem], max_references: int | None = None) -> list[TrainingRow]:
    """One row per reference path, tokenised as the engine tokenises when it samples and scores, end token included.

    Args:
        engine: Only its tokenizer is used.
        items: Train problems; those without references give no row.
        max_references: Paths used per problem, the first ones; None uses all.
    """
    rows = []
    for item in items:
        prompt = engine.encode_prompt(item.problem.prompt, item.behavior.prompt)
        for reference in item.problem.references[:max_references]:
            rows.append(
                TrainingRow(
                    behavior=item.behavior.name,
                    problem_id=item.problem.id,
                    split=item.problem.split,
                    group_id=item.name,
                    prompt_ids=prompt.token_ids,
                    completion_ids=engine.encode_path(prompt, reference).token_ids,
                    text=reference.text,
                )
            )
    return rows


class FixedRows:
    """Deals a fixed list of rows out in shuffled epochs.

    Args:
        rows: What is learned from; may be empty, then there are no batches.
        rows_per_batch: Rows in one optimizer batch; fewer where there are not as many rows.
        num_steps: Batches; None takes `num_epochs` passes.
        num_epochs: Passes over the rows.
        seed: Of the order.
    """

    def __init__(
        self, rows: Sequence[TrainingRow], *, rows_per_batch: int, num_steps: int | None, num_epochs: float, seed: int
    ) -> None:
        self.rows = tuple(rows)
        self.num_steps, self.num_epochs = num_steps, num_epochs
        self._order = EpochOrder(max(1, len(rows)), max(1, min(rows_per_batch, len(rows))), seed)

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """No batches where there are no rows."""
        metrics = {"rows": float(len(self.rows)), "problems": float(len({(row.behavior, row.problem_id) for row in self.rows}))}
        if not self.rows:
            return 0, metrics
        return (self._order.num_batches(self.num_epochs) if self.num_steps is None else self.num_steps), metrics

    def batch(self, step: int) -> Batch:
        """The rows of a step."""
        return Batch(rows=tuple(self.rows[index] for index in self._order.batch(step)))
