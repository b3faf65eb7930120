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
        config: Rows per batch (fewer where there are not as many), steps or epochs, and the seed of the order.
        rows_per_item: Rows that stay together: 2 for pairs, which stand one after the other in what `make` gives.
        also: Rows to add to a batch, given its own, such as KTO's mismatched ones; where its own share a prompt, one of another is given with
            them.
    """

    def __init__(
        self,
        make: Callable[[], Made],
        config: EpochConfig,
        *,
        rows_per_item: int = 1,
        also: Callable[[Sequence[TrainingRow]], Sequence[TrainingRow]] | None = None,
    ) -> None:
        self._make, self._also, self._config, self._rows_per_item = make, also, config, rows_per_item
        self.rows: tuple[TrainingRow, ...] = ()
        self._order: EpochOrder | None = None
        self._num_batches: int | None = None

    def prepare(self, num_batches: int | None = None) -> tuple[int, Mapping[str, float]]:
        """Make the rows; return 0 batches where there are none. See `deal` for the number of batches."""
        rows, made = self._make()
        num_batches = self.deal(rows, num_batches)
        return num_batches, {
            **made,
            "rows": float(len(self.rows)),
            "problems": float(len({(row.behavior, row.problem_id) for row in self.rows})),
        }

    def deal(self, rows: Sequence[TrainingRow], num_batches: int | None = None) -> int:
        """Take rows that are made already; return how many batches there will be.

        Args:
            rows: All rows.
            num_batches: In how many batches the epochs are dealt out, whatever their size; None takes batches of the config's size.
        """
        self.rows = tuple(rows)
        config, num_items = self._config, len(self.rows) // self._rows_per_item
        if num_items == 0:
            return 0
        num_epochs = config.num_epochs if config.num_steps is None else None
        self._order = EpochOrder(num_items, min(config.rows_per_batch, num_items), config.seed, num_epochs)
        if config.num_steps is not None:
            return config.num_steps
        self._num_batches = num_batches
        return self._order.num_batches() if num_batches is None else num_batches

    def batch(self, step: int) -> Batch:
        """Return the rows of a step."""
        assert self._order is not None, "prepare() comes first"
        items = self._order.batch(step) if self._num_batches is None else self._order.share(step, self._num_batches)
        rows = [self.rows[item * self._rows_per_item + place] for item in items for place in range(self._rows_per_item)]
        if self._also is None:
            return Batch(rows=tuple(rows))
        return Batch(rows=(*rows, *self._also([*rows, *self._next_prompt(rows, items[0])])))

    def _next_prompt(self, rows: Sequence[TrainingRow], item: int) -> list[TrainingRow]:
        """Return the next row with another prompt for a batch whose rows share one, which have no other to be compared with."""
        prompt = rows[0].prompt_ids
        if any(row.prompt_ids != prompt for row in rows):
            return []
        first = item * self._rows_per_item
        return [row for row in (*self.rows[first:], *self.rows[:first]) if row.prompt_ids != prompt][:1]


def fixed(rows: Sequence[TrainingRow]) -> Callable[[], Made]:
    """Return a function that gives rows that exist already."""
    return lambda: (rows, {})


def change_rows(make: Callable[[], Made], change: Callable[[TrainingRow], TrainingRow]) -> Callable[[], Made]:
    """Return a function that makes rows and changes each of them."""

    def make_changed() -> Made:
        rows, metrics = make()
        return [change(row) for row in rows], metrics

    return make_changed
