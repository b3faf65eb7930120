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
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        assert num_items > 0
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed

    def batch(self, step: int) -> list[int]:
        """Return the indices of a batch; none twice where `batch_size` ≤ n, unless an epoch ends within the batch."""
        positions = range(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = {epoch: self._shuffled(epoch) for epoch in {position // self.num_items for position in positions}}
        return [epochs[position // self.num_items][position % self.num_items] for position in positions]

    def num_batches(self, num_epochs: float) -> int:
        """Return how many batches make up this many epochs, the last one completed from the next epoch."""
        return max(1, math.ceil(num_epochs * self.num_items / self.batch_size))

    def _shuffled(self, epoch: int) -> list[int]:
        return [int(index) for index in np.random.default_rng([self.seed, epoch]).permutation(self.num_items)]
