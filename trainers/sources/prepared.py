"""Rows that are made once, before the first step, and dealt out in shuffled epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from posttrain.trainers.config import EpochConfig
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.training_types import Batch, TrainingRow

Made = tuple[Sequence[TrainingRow], Mapping[str, float]]
"""Rows, and what is worth logging about how they came to be."""


class PreparedRows:
    """Deal a list of rows out in shuffled epochs.

    Args:
        make: Gives the rows when training begins; may give none, then there are no batches.
        rows_per_batch: Items in one optimizer batch; fewer where there are not as many.
        num_steps: Batches; None takes `num_epochs` passes.
        num_epochs: Passes over the rows.
        seed: Of the order.
        rows_per_item: Rows that stay together: 2 for pairs, which stand one after the other in what `make` gives.
        also: Rows to add to a batch, given its own, such as KTO's mismatched ones.
    """

    def __init__(
        self,
        make: Callable[[], Made],
        *,
        rows_per_batch: int,
        num_steps: int | None,
        num_epochs: float,
        seed: int,
        rows_per_item: int = 1,
        also: Callable[[Sequence[TrainingRow]], Sequence[TrainingRow]] | None = None,
    ) -> None:
        self._make, self._also = make, also
        self.rows_per_batch, self.rows_per_item = rows_per_batch, rows_per_item
        self.num_steps, self.num_epochs, self.seed = num_steps, num_epochs, seed
        self.rows: tuple[TrainingRow, ...] = ()
        self._order: EpochOrder | None = None

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Make the rows; return 0 batches where there are none."""
        rows, made = self._make()
        num_batches = self.deal(rows)
        return num_batches, {
            **made,  # may hold the counts of another source that these rows came from
            "rows": float(len(self.rows)),
            "problems": float(len({(row.behavior, row.problem_id) for row in self.rows})),
        }

    def deal(self, rows: Sequence[TrainingRow]) -> int:
        """Take rows that are made already; return how many batches there will be."""
        self.rows = tuple(rows)
        num_items = len(self.rows) // self.rows_per_item
        if num_items == 0:
            return 0
        self._order = EpochOrder(num_items, min(self.rows_per_batch, num_items), self.seed)
        return self._order.num_batches(self.num_epochs) if self.num_steps is None else self.num_steps

    def batch(self, step: int) -> Batch:
        """Return the rows of a step."""
        assert self._order is not None, "prepare() comes first"
        items = self._order.batch(step)
        rows = [self.rows[item * self.rows_per_item + place] for item in items for place in range(self.rows_per_item)]
        return Batch(rows=tuple([*rows, *self._also(rows)] if self._also else rows))


def in_epochs(
    make: Callable[[], Made],
    config: EpochConfig,
    *,
    rows_per_item: int = 1,
    also: Callable[[Sequence[TrainingRow]], Sequence[TrainingRow]] | None = None,
) -> PreparedRows:
    """Build `PreparedRows` with the batches, steps, epochs and seed of a config."""
    return PreparedRows(
        make,
        rows_per_batch=config.rows_per_batch,
        num_steps=config.num_steps,
        num_epochs=config.num_epochs,
        seed=config.seed,
        rows_per_item=rows_per_item,
        also=also,
    )


def fixed(rows: Sequence[TrainingRow]) -> Callable[[], Made]:
    """Return a function that gives rows that exist already."""
    return lambda: (rows, {})
