"""Rows of behaviors that are not to be lost, in the batches of any other source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.trainers.sources.prepared import Made
from posttrain.trainers.stage import Source, Stateful
from posttrain.trainers.training_types import Batch, RowRole, TrainingProblem, TrainingRow


class RetainedSource:
    """Add rows of retained behaviors to every batch of a source, so that they are a fixed share of its rows.

    The behaviors have equally many of them, however many problems each has. Which rows a batch gets depends on the seed and the step alone.

    Args:
        own: What the stage learns from; its number of batches holds.
        make: Gives the rows of the retained behaviors when training begins; without any, the batches stay as they are.
        share: Of the rows of a batch; rows of KTO's reference point, which are never trained on, do not count.
        seed: Of the choice.
    """

    def __init__(self, own: Source, make: Callable[[], Made], *, share: float, seed: int) -> None:
        self.own, self._make, self._share, self._seed = own, make, share, seed
        self._rows: list[tuple[TrainingRow, ...]] = []

    @property
    def share(self) -> float:
        """Of the retained rows in every batch; 0 where there are none to add."""
        return self._share if self._rows else 0.0

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Prepare the source, then make the rows, unless there is nothing to learn beside which they would stand."""
        num_batches, metrics = self.own.prepare()
        if num_batches == 0:
            return 0, metrics
        rows, made = self._make()
        found: dict[str, list[TrainingRow]] = {}
        for row in rows:
            found.setdefault(row.behavior, []).append(row)
        self._rows = [tuple(found[name]) for name in sorted(found)]
        generated = metrics.get("generated_tokens", 0.0) + made.get("generated_tokens", 0.0)
        return num_batches, {**metrics, **made, "generated_tokens": generated}

    def batch(self, step: int) -> Batch:
        """Return the batch of the source, and behind its rows those of retained behaviors."""
        batch = self.own.batch(step)
        num_own = sum(row.role is not RowRole.MISMATCHED for row in batch.rows)
        if not self._rows or num_own == 0:
            return batch
        added = self._choose(step, max(1, round(num_own * self._share / (1 - self._share))))
        metrics = {
            "retained_rows": float(len(added)),
            "retained_tokens": float(sum(len(row.completion_ids) for row in added)),
        }
        return Batch(rows=(*batch.rows, *added), metrics={**batch.metrics, **metrics}, num_updates=batch.num_updates)

    def _choose(self, step: int, number: int) -> list[TrainingRow]:
        """Return rows of a step: of each behavior in turn, none twice before all of its rows were there."""
        rng, size = np.random.default_rng([self._seed, step, 78]), len(self._rows)
        orders = [rng.permutation(len(rows)) for rows in self._rows]
        chosen = []
        for place in range(number):
            behavior, turn = (step + place) % size, place // size
            order = orders[behavior]
            chosen.append(self._rows[behavior][order[turn % len(order)]])
        return chosen

    def state(self) -> dict[str, Any]:
        """Return what the source knows; the rows are sampled again from the model before training."""
        return self.own.state() if isinstance(self.own, Stateful) else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        if isinstance(self.own, Stateful):
            self.own.load(state)


def choose_problems(items: Sequence[TrainingProblem], most: int, seed: int) -> list[TrainingProblem]:
    """Return the problems of each behavior, at most `most` of them, chosen by the seed, in their order."""
    by_behavior: dict[str, list[TrainingProblem]] = {}
    for item in items:
        by_behavior.setdefault(item.behavior.name, []).append(item)
    chosen: list[TrainingProblem] = []
    for members in by_behavior.values():
        order = np.random.default_rng([seed, 79]).permutation(len(members))[:most]
        chosen += [members[index] for index in sorted(order)]
    return chosen
