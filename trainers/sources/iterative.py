"""A source that is prepared anew from the trained model, several times (ReST, arXiv 2308.08998)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posttrain.diagnose.engines.base import Engine
from posttrain.trainers.row_json import row_from_json
from posttrain.trainers.sources.prepared import PreparedRows
from posttrain.trainers.training_types import Batch


class IterativeSource:
    """Round after round: draw from the model as it is, deal out, draw again.

    How many batches the later rounds have is not known before they are sampled; each gets as many as the first, from the rows that it has. A
    round that finds no rows goes on with those of the round before.

    Args:
        engine: Refreshed before each round.
        make: Gives the source of a round.
        num_rounds: At least 1.
    """

    def __init__(self, engine: Engine, make: Callable[[int], PreparedRows], num_rounds: int) -> None:
        self.engine, self._make, self.num_rounds = engine, make, num_rounds
        self._rounds: dict[int, PreparedRows] = {}
        self._drawn_in: dict[int, int] = {}
        self._per_round = 0

    def prepare(self) -> tuple[int, Mapping[str, float]]:
        """The first round."""
        first = self._make(0)
        self._per_round, metrics = first.prepare()
        self._rounds[0], self._drawn_in[0] = first, 0
        return self._per_round * self.num_rounds, metrics

    def batch(self, step: int) -> Batch:
        """The rows of a step; the first one of a round draws."""
        number, place = divmod(step, self._per_round)
        metrics: Mapping[str, float] = {}
        if number not in self._rounds:
            self.engine.refresh()
            source = self._make(number)
            num_batches, metrics = source.prepare()
            self._rounds[number] = source if num_batches else self._rounds[number - 1]
            self._drawn_in[number] = number if num_batches else self._drawn_in[number - 1]
        batch = self._rounds[number].batch(place)
        return Batch(rows=batch.rows, metrics={**batch.metrics, **metrics})

    def state(self) -> dict[str, Any]:
        """The rows of the round under way: the model that drew them is gone. Those of the first round are drawn again."""
        last = max(self._rounds)
        drawn_in = self._drawn_in[last]
        return {"round": last, "drawn_in": drawn_in, "rows": self._rounds[last].rows if drawn_in else ()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Stateful`."""
        last, drawn_in = state["round"], state["drawn_in"]
        if drawn_in:
            source = self._make(drawn_in)
            source.deal([row_from_json(row) for row in state["rows"]])
            self._rounds[last] = source
        else:
            self._rounds[last] = self._rounds[0]
        self._drawn_in[last] = drawn_in
