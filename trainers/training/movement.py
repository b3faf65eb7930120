"""How far training has moved a policy, on some of the rows that it was trained on: whether a stage did anything at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from posttrain.diagnose.types import Floats
from posttrain.trainers.row_json import row_from_json
from posttrain.trainers.stage import Score
from posttrain.trainers.step.forward_scores import ForwardScorer
from posttrain.trainers.training_types import RowRole, TrainingRow

MOST_ROWS, MOST_TOKENS = 16, 8192
"""Rows that are scored, and their tokens with prompts; at least one row, however long."""
LEAST_PER_ANSWER = 0.1
"""Mean |Δ log π(answer)| in nats below which a policy hardly moved: it changes the probability of an answer, and with it pass@1, by at most a tenth
of what it was."""
LEAST_PER_TOKEN = 0.001
"""Mean |Δ log π(token)| in nats below which a policy hardly moved, however long the answers: what differs between two kernels that run the same
float32 weights stays far below it, and sums over a thousand tokens to a nat only where all of them lean one way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Movement:
    """Mean change of log-probabilities from the start to the end of training, in nats."""

    per_token: float
    """Of |Δ log π(token)|, over all learned tokens."""
    per_answer: float
    """Of |Δ log π(answer)|, over answers."""

    @property
    def moved(self) -> bool:
        """Whether the policy is another one for what it was trained on."""
        return self.per_answer >= LEAST_PER_ANSWER and self.per_token >= LEAST_PER_TOKEN


@dataclass(kw_only=True, slots=True)
class StartScores:
    """Some rows of the first batch, with their log-probabilities before the first step."""

    rows: tuple[TrainingRow, ...]
    logprobs: list[list[float]]

    @classmethod
    def take(cls, rows: Sequence[TrainingRow], scorer: ForwardScorer) -> StartScores | None:
        """Score some rows of a batch, spread over it, as the model is now; None where it has none but retained ones."""
        own = [row for row in rows if row.role is not RowRole.RETAINED]
        chosen: list[TrainingRow] = []
        room = MOST_TOKENS
        for row in own[:: -(-len(own) // MOST_ROWS) or 1]:
            room -= len(row.prompt_ids) + len(row.completion_ids)
            if chosen and room < 0:
                break
            chosen.append(row)
        if not chosen:
            return None
        return cls(rows=tuple(chosen), logprobs=[values.tolist() for values in _score(chosen, scorer)])

    def measure(self, scorer: ForwardScorer) -> Movement:
        """Return how far the model has moved since."""
        changes = [after - np.array(before) for after, before in zip(_score(self.rows, scorer), self.logprobs, strict=True)]
        return Movement(
            per_token=float(np.abs(np.concatenate(changes)).mean()),
            per_answer=float(np.mean([abs(change.sum()) for change in changes])),
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values and training rows, for a state from which a run is resumed."""
        return {"rows": self.rows, "logprobs": self.logprobs}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StartScores:
        """Read what `to_json` wrote."""
        return cls(rows=tuple(map(row_from_json, record["rows"])), logprobs=record["logprobs"])


def _score(rows: Sequence[TrainingRow], scorer: ForwardScorer) -> list[Floats]:
    """Return the log-probabilities of the learned tokens of each row, in float32: in bfloat16 rounding alone moves them."""
    exact = replace(scorer, dtype=torch.float32)
    return [
        values if row.token_weights is None else values[row.token_weights > 0]
        for row, values in zip(rows, exact.score_rows(rows, Score.POLICY), strict=True)
    ]
