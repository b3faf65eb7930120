"""How token losses become one number, named by what is averaged.

Each gives every token its share before anything runs backward.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.trainers.stage import Weights
from posttrain.trainers.types import TrainingRow


def _token_weights(row: TrainingRow) -> Weights:
    if row.token_weights is None:
        return np.ones(len(row.completion_ids))
    return np.asarray(row.token_weights, dtype=np.float64)


def token_mean(rows: Sequence[TrainingRow]) -> list[Weights]:
    """All tokens of the batch alike: long rows count more. One denominator, the batch's weighted token count."""
    weights = [_token_weights(row) for row in rows]
    total = sum(weight.sum() for weight in weights)
    return [weight / total if total > 0 else weight for weight in weights]


def sequence_mean(rows: Sequence[TrainingRow]) -> list[Weights]:
    """The mean over the tokens of a row, then over rows: short and long rows count alike.

    A row without weight still counts as one.
    """
    weights = [_token_weights(row) for row in rows]
    return [weight / (weight.sum() * len(rows)) if weight.sum() > 0 else weight for weight in weights]
