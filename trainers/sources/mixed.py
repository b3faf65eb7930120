"""Batches that the policy samples in a share of the steps and that are given in the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from posttrain.trainers.stage import Source, Stateful
from posttrain.trainers.training_types import Batch


class MixedSource:
    """Give the policy's own batch with probability `on_policy`, else a given one (λ of GKD, arXiv 2306.13649).

    Args:
        own: Samples the policy; its number of steps holds.
        given: Rows that exist already; a source without rows leaves every batch to `own`.
        on_policy: Probability of an own batch.
        seed: Of the choice, one random number per step, so that any step can be asked for at any time.
    """

    def __init__(self, own: Source, given: Source, *, on_policy: float, seed: int) -> None:
        self.own, self.given, self.on_policy, self.seed = own, given, on_policy, seed
        self._has_given = False

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Prepare both sources."""
        num_steps, metrics = self.own.prepare()
        if self.on_policy < 1.0:
            num_given, more = self.given.prepare()
            self._has_given = num_given > 0
            metrics = {**metrics, **more}
        return num_steps, metrics

    def batch(self, step: int) -> Batch:
        """Return the batch of a step."""
        chance = np.random.default_rng([self.seed, step, 77]).random()
        if self._has_given and chance >= self.on_policy:
            return self.given.batch(step)
        return self.own.batch(step)

    def state(self) -> dict[str, Any]:
        """See `Stateful`."""
        return {name: source.state() for name, source in self._stateful.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        for name, source in self._stateful.items():
            source.load(state[name])

    @property
    def _stateful(self) -> dict[str, Stateful]:
        both: tuple[tuple[str, object], ...] = (("own", self.own), ("given", self.given))
        return {name: source for name, source in both if isinstance(source, Stateful)}
