"""Credit by how likely a teacher finds what follows in a sample (MiniLLM, arXiv 2306.08543)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from posttrain.trainers.stage import Credit, RowScorer, Score
from posttrain.trainers.training_types import TrainingRow


class TeacherCredit(Credit):
    """A_t = (1 / (T − t)) Σ_{t' > t} log teacher(y_t') − log π(y_t'): the mean over what follows, so that length earns nothing.

    The contribution of token t itself is left to the divergence term, which has it exactly over the full vocabulary.
    """

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return rows with advantages; log the mean log-ratio, minus an estimate of KL(π‖teacher) per token."""
        teacher, policy = score_rows(rows, Score.TEACHER), score_rows(rows, Score.POLICY)
        filled, every = [], []
        for row, of_teacher, of_policy in zip(rows, teacher, policy, strict=True):
            gaps = np.asarray(of_teacher, dtype=np.float64) - np.asarray(of_policy, dtype=np.float64)
            every.append(gaps)
            after = np.append(np.cumsum(gaps[::-1])[::-1][1:], 0.0)
            left = np.maximum(np.arange(len(gaps) - 1, -1, -1), 1)
            filled.append(replace(row, advantages=(after / left).astype(np.float32)))
        return tuple(filled), {"teacher_log_ratio": float(np.concatenate(every).mean()) if every else float("nan")}
