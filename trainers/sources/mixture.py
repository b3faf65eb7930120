"""Batches that come from the policy in one part of the steps and from elsewhere in the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from posttrain.trainers.stage import Source, Stateful
from posttrain.trainers.training_types import Batch


class Mixture:
    """Each batch is the policy's own with probability `share`, else a given one (λ of GKD, arXiv 2306.13649).

    Args:
        own: Asked for a batch when the coin says so; its number of steps holds.
        given: Asked otherwise; None, or one without rows, leaves every batch to `own`.
        share: Probability of an own batch.
        seed: Of the coins: one per step, so that any step can be asked for at any time.
    """

    def __init__(self, own: Source, given: Source | None, *, share: float, seed: int) -> None:
        self.own, self.given, self.share, self.seed = own, given, share, seed
        self._has_given = False

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Both."""
        num_steps, metrics = self.own.prepare()
        if self.given is not None and self.share < 1.0:
            num_given, more = self.given.prepare()
            self._has_given = num_given > 0
            metrics = {**metrics, **more}
        return num_steps, metrics

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        coin = np.random.default_rng([self.seed, step, 77]).random()
        if self.given is not None and self._has_given and coin >= self.share:
            return self.given.batch(step)
        return self.own.batch(step)

    def state(self) -> dict[str, Any]:
        """See `Stateful`."""
        return {name: part.state() for name, part in self._parts.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        for name, part in self._parts.items():
            part.load(state[name])

    @property
    def _parts(self) -> dict[str, Stateful]:
        both: tuple[tuple[str, object], ...] = (("own", self.own), ("given", self.given))
        return {name: part for name, part in both if isinstance(part, Stateful)}
