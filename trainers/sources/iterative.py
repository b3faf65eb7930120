"""Rows that are sampled again from the trained model, several times (ReST, arXiv 2308.08998)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.row_json import row_from_json
from posttrain.trainers.sources.prepared import PreparedRows
from posttrain.trainers.training_types import Batch


class IterativeSource:
    """Sample the model as it is, train on the rows in epochs, and sample again, round after round.

    How many rows the later rounds have is not known before they are sampled. Each round has as many batches as the first, and deals the epochs of
    its own rows out among them. A round that finds no rows goes on with those of the round before.

    Args:
        engine: Refreshed before each round.
        make: Gives the source of a round.
        num_rounds: At least 1.
    """

    def __init__(self, engine: Engine, make: Callable[[int], PreparedRows], num_rounds: int) -> None:
        self.engine, self._make, self.num_rounds = engine, make, num_rounds
        self._rounds: dict[int, PreparedRows] = {}
        self._sampled_in: dict[int, int] = {}
        self._per_round = 0

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """Prepare the first round."""
        first = self._make(0)
        self._per_round, metrics = first.prepare()
        self._rounds[0], self._sampled_in[0] = first, 0
        return self._per_round * self.num_rounds, metrics

    def batch(self, step: int) -> Batch:
        """Return the rows of a step; the first one of a round samples."""
        number, place = divmod(step, self._per_round)
        metrics: Mapping[str, float] = {}
        if number not in self._rounds:
            self.engine.refresh()
            source = self._make(number)
            num_batches, metrics = source.prepare(self._per_round)
            self._rounds[number] = source if num_batches else self._rounds[number - 1]
            self._sampled_in[number] = number if num_batches else self._sampled_in[number - 1]
        batch = self._rounds[number].batch(place)
        return Batch(rows=batch.rows, metrics={**batch.metrics, **metrics})

    def state(self) -> dict[str, Any]:
        """Return the rows of the current round, since the model that was sampled is gone; those of the first round are sampled again."""
        last = max(self._rounds)
        sampled_in = self._sampled_in[last]
        return {"round": last, "sampled_in": sampled_in, "rows": self._rounds[last].rows if sampled_in else ()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        last, sampled_in = state["round"], state["sampled_in"]
        if sampled_in:
            source = self._make(sampled_in)
            source.deal([row_from_json(row) for row in state["rows"]], self._per_round)
            self._rounds[last] = source
        else:
            self._rounds[last] = self._rounds[0]
        self._sampled_in[last] = sampled_in
