"""How losses become one number, named by what is averaged.

Each gives every loss its weight before the first backward pass. Reductions of tokens give [T] weights a row, those of rows, pairs and steps [1].
All are weighted means: a row of weight 2 counts as two rows would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.trainers.stage import Reduction, Weights
from posttrain.trainers.training_types import TrainingRow


def _token_weights(row: TrainingRow) -> Weights:
    if row.token_weights is None:
        return np.ones(len(row.completion_ids))
    return np.asarray(row.token_weights, dtype=np.float64)


def _total(rows: Sequence[TrainingRow]) -> float:
    """Return the sum of the weights of rows: their number, where none has one of its own."""
    return sum(row.weight for row in rows) or 1.0


def token_mean(rows: Sequence[TrainingRow]) -> list[Weights]:
    """Average over all tokens of the batch: long rows count more. One denominator, the batch's weighted token count."""
    weights = [_token_weights(row) * row.weight for row in rows]
    total = sum(weight.sum() for weight in weights)
    return [weight / total if total > 0 else weight for weight in weights]


def sequence_mean(rows: Sequence[TrainingRow]) -> list[Weights]:
    """Average over the tokens of a row, then over rows: short and long rows count alike.

    A row without weight still counts as one.
    """
    weights, total = [_token_weights(row) for row in rows], _total(rows)
    return [
        weight * row.weight / (weight.sum() * total) if weight.sum() > 0 else weight
        for row, weight in zip(rows, weights, strict=True)
    ]


def sequence_sum(rows: Sequence[TrainingRow]) -> list[Weights]:
    """Sum over the tokens of a row, then average over rows: the gradient of a sequence's log-probability."""
    total = _total(rows)
    return [_token_weights(row) * row.weight / total for row in rows]


def constant_length(length: int) -> Reduction:
    """Sum over the tokens of a row divided by a constant, then average over rows: Dr. GRPO's (arXiv 2503.20783).

    Args:
        length: Tokens, such as the longest that may be sampled; the same for every row, so that no length is favoured.
    """

    def reduce(rows: Sequence[TrainingRow]) -> list[Weights]:
        total = _total(rows)
        return [_token_weights(row) * row.weight / (total * length) for row in rows]

    return reduce


def row_mean(rows: Sequence[TrainingRow]) -> list[Weights]:
    """Average over rows, for terms that give one loss a row; over pairs, for those of pairs."""
    total = _total(rows)
    return [np.full(1, row.weight / total) for row in rows]


def step_mean(rows: Sequence[TrainingRow]) -> list[Weights]:
    """Average over all steps of the batch, for terms that give the sum over the steps of a row."""
    total = sum(row.weight * len(row.step_ends) for row in rows) or 1.0
    return [np.full(1, row.weight / total) for row in rows]
