"""Credit by comparison within a group of samples of one prompt.

The mean as baseline is GRPO's (arXiv 2402.03300), without the standard deviation Dr. GRPO's (arXiv 2503.20783), the mean of the others
RLOO's (arXiv 2402.14740).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.trainers.stage import Credit, RowScorer
from posttrain.trainers.training_types import TrainingRow

_ROUNDING = 1e-6
"""Of sums of float32 numbers between 0 and 1; no verifier tells answers apart by less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCredit(Credit):
    """A = (r − baseline) / (std + eps) over the graded rows of a group, the same for every token of a row.

    The standard deviation is the sample's (divided by G − 1). A group whose rewards differ by rounding alone has exactly zero
    advantage, not that noise divided by eps. Rows without a reward (the verifier failed) take no part and learn nothing. With `leave_one_out` the baseline is the mean of the other rows, which is G / (G − 1) times the distance from the mean
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
            graded = [index for index in members if rows[index].is_graded]
            rewards = np.array([rows[index].reward for index in graded], dtype=np.float64)
            if not differ(rewards):
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


def differ(values: Iterable[float]) -> bool:
    """Return whether some of the numbers differ by more than rounding: 0.1 + 0.2 and 0.3 are one reward, not two.

    Args:
        values: Finite rewards, or scores of steps; any number of them.
    """
    known = list(values)
    return bool(known) and max(known) - min(known) > _ROUNDING * max(1.0, *map(abs, known))


def group_indices(rows: Sequence[TrainingRow]) -> dict[str, list[int]]:
    """Return group id → the indices of its rows."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group_id, []).append(index)
    return groups


def reward_metrics(rows: Sequence[TrainingRow], num_groups: int, num_without_signal: int) -> dict[str, float]:
    """Return what every stage with rewards logs."""
    known = [row.reward for row in rows if row.reward is not None and row.is_graded]
    return {
        "reward": float(np.mean(known)) if known else float("nan"),
        "groups": float(num_groups),
        "groups_without_signal": num_without_signal / num_groups if num_groups else float("nan"),
        "ungraded": 1 - len(known) / len(rows) if rows else float("nan"),
    }
