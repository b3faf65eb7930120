"""In which order rows or problems are visited: shuffled anew each epoch, the same for the same seed."""

from __future__ import annotations

import math

import numpy as np


class EpochOrder:
    """Deal the indices 0 … n−1 out in batches, one shuffled epoch after the other.

    Any batch can be asked for at any time: epoch e is shuffled by the generator (seed, e) alone, which is what makes a run
    resumable.

    Args:
        num_items: n, at least 1.
        batch_size: Indices per batch; a batch may span two epochs.
        seed: Of the shuffles.
        num_epochs: After how many epochs the last batch ends, which may hold fewer indices; None goes on for ever.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, num_epochs: float | None = None) -> None:
        assert num_items > 0
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self._num_positions = None if num_epochs is None else max(1, math.ceil(num_epochs * num_items - 1e-9))

    def batch(self, step: int) -> list[int]:
        """Return the indices of a batch; none twice where `batch_size` ≤ n, unless an epoch ends within the batch."""
        return self._at(range(step * self.batch_size, self._clip((step + 1) * self.batch_size)))

    def share(self, step: int, num_batches: int) -> list[int]:
        """Return the indices of a batch where the epochs are dealt out in this many batches, as evenly as can be, and at least 1 each."""
        assert self._num_positions is not None, "num_epochs says how much there is to deal out"
        first = step * self._num_positions // num_batches
        return self._at(range(first, max(first + 1, (step + 1) * self._num_positions // num_batches)))

    def num_batches(self) -> int:
        """Return how many batches the epochs make; the last one may be smaller, so that an epoch visits each index once."""
        assert self._num_positions is not None, "without num_epochs there is no end"
        return math.ceil(self._num_positions / self.batch_size)

    def _clip(self, position: int) -> int:
        return position if self._num_positions is None else min(position, self._num_positions)

    def _at(self, positions: range) -> list[int]:
        epochs = {epoch: self._shuffled(epoch) for epoch in {position // self.num_items for position in positions}}
        return [epochs[position // self.num_items][position % self.num_items] for position in positions]

    def _shuffled(self, epoch: int) -> list[int]:
        return [int(index) for index in np.random.default_rng([self.seed, epoch]).permutation(self.num_items)]
