"""Credit by comparison within a group of samples of one prompt (GRPO, arXiv 2402.03300; without std: Dr.

GRPO, arXiv 2503.20783).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.trainers.types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCredit:
    """A = (r − mean) / (std + eps) over the graded rows of a group, the same for every token of a row.

    The standard deviation is the sample's (divided by G − 1). A group of equal rewards has exactly zero advantage, not
    rounding noise divided by eps, and is counted as without signal. Rows without a reward (the verifier failed) take no part
    and learn nothing.
    """

    normalize_std: bool = True
    eps: float = 1e-4

    def assign(self, rows: Sequence[TrainingRow]) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Rows with advantages; logs mean reward, the share of groups without signal and the share of ungraded rows."""
        groups: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(row.group_id, []).append(index)
        advantages = np.zeros(len(rows))
        silent = 0
        for members in groups.values():
            graded = [index for index in members if rows[index].reward is not None]
            rewards = np.array([rows[index].reward for index in graded], dtype=np.float64)
            if len(graded) < 2 or rewards.min() == rewards.max():
                silent += 1
                continue
            centred = rewards - rewards.mean()
            advantages[graded] = centred / (rewards.std(ddof=1) + self.eps) if self.normalize_std else centred
        known = [row.reward for row in rows if row.reward is not None]
        metrics = {
            "reward": float(np.mean(known)) if known else float("nan"),
            "groups": float(len(groups)),
            "groups_without_signal": silent / len(groups) if groups else float("nan"),
            "ungraded": 1 - len(known) / len(rows) if rows else float("nan"),
        }
        filled = tuple(
            replace(row, advantages=np.full(len(row.completion_ids), advantage, dtype=np.float32))
            for row, advantage in zip(rows, advantages, strict=True)
        )
        return filled, metrics
