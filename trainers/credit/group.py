"""Credit by comparison within a group of samples of one prompt.

The mean as baseline is GRPO's (arXiv 2402.03300), without the standard deviation Dr. GRPO's (arXiv 2503.20783), the mean of the others
RLOO's (arXiv 2402.14740).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.trainers.stage import Credit, RowScorer
from posttrain.trainers.training_types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCredit(Credit):
    """A = (r − baseline) / (std + eps) over the graded rows of a group, the same for every token of a row.

    The standard deviation is the sample's (divided by G − 1). A zero-variance group has exactly zero advantage, not rounding noise divided
    by eps. Rows without a reward (the verifier failed) take no part and learn nothing. With `leave_one_out` the baseline is the mean of the other rows, which is G / (G − 1) times the distance from the mean
    of all.
    """

    normalize_std: bool = True
    leave_one_out: bool = False
    eps: float = 1e-4

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return rows with advantages; log the mean reward, the share of zero-variance groups and the share of ungraded rows."""
        groups = group_indices(rows)
        advantages = np.zeros(len(rows))
        num_without_signal = 0
        for members in groups.values():
            graded = [index for index in members if rows[index].reward is not None]
            rewards = np.array([rows[index].reward for index in graded], dtype=np.float64)
            if len(graded) < 2 or rewards.min() == rewards.max():
                num_without_signal += 1
                continue
            centred = rewards - rewards.mean()
            if self.leave_one_out:
                centred *= len(graded) / (len(graded) - 1)
            advantages[graded] = centred / (rewards.std(ddof=1) + self.eps) if self.normalize_std else centred
        filled = tuple(
            replace(row, advantages=np.full(len(row.completion_ids), advantage, dtype=np.float32))
            for row, advantage in zip(rows, advantages, strict=True)
        )
        return filled, reward_metrics(rows, len(groups), num_without_signal)


def group_indices(rows: Sequence[TrainingRow]) -> dict[str, list[int]]:
    """Return group id → the indices of its rows."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group_id, []).append(index)
    return groups


def reward_metrics(rows: Sequence[TrainingRow], num_groups: int, num_without_signal: int) -> dict[str, float]:
    """Return what every stage with rewards logs."""
    known = [row.reward for row in rows if row.reward is not None]
    return {
        "reward": float(np.mean(known)) if known else float("nan"),
        "groups": float(num_groups),
        "groups_without_signal": num_without_signal / num_groups if num_groups else float("nan"),
        "ungraded": 1 - len(known) / len(rows) if rows else float("nan"),
    }
