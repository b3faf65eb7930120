"""KTO's reference point: how far the policy has moved from its start on answers that were not written for the prompt (arXiv 2402.01306)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from posttrain.trainers.stage import Credit, RowScorer, Score
from posttrain.trainers.training_types import RowRole, TrainingRow


class ReferencePoint(Credit):
    """z = max(0, mean over the batch's mismatched rows of Σ_t log π − log π_ref over learned tokens), an estimate of KL(π‖π_ref) without a gradient."""

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return the labelled rows with z as their baseline; the mismatched ones are left out."""
        mismatched = [row for row in rows if row.role is RowRole.MISMATCHED]
        point = 0.0
        if mismatched:
            policy, reference = score_rows(mismatched, Score.POLICY), score_rows(mismatched, Score.REFERENCE)
            gains = [
                float(np.sum(new - old, dtype=np.float64, where=True if row.token_weights is None else row.token_weights > 0))
                for row, new, old in zip(mismatched, policy, reference, strict=True)
            ]
            point = max(0.0, float(np.mean(gains)))
        kept = tuple(replace(row, baseline=point) for row in rows if row.role is not RowRole.MISMATCHED)
        return kept, {"reference_kl": point}
