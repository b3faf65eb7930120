"""Credit against a learned value function: generalised advantage estimation (arXiv 1506.02438), as PPO uses it (arXiv 1707.06347)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.trainers.credit.group import differ, group_indices, reward_metrics
from posttrain.trainers.stage import Credit, RowScorer, Score
from posttrain.trainers.training_types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueCredit(Credit):
    """A_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t; the reward comes with the last token, and nothing is worth more after it.

    Advantages are whitened over the batch. Where all rewards of a batch are equal they are exactly 0: the error of a value function that has
    not learned the rewards yet is no reason to move the policy.
    """

    gamma: float = 1.0
    lam: float = 0.95

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return rows with advantages, returns and the values that they were computed from."""
        graded = [index for index, row in enumerate(rows) if row.is_graded]
        values = score_rows([rows[index] for index in graded], Score.VALUE)
        found = [
            self._advantages(np.asarray(value, dtype=np.float64), float(rows[index].reward or 0.0))
            for index, value in zip(graded, values, strict=True)
        ]
        no_signal = not differ(float(rows[index].reward or 0.0) for index in graded)
        every = np.concatenate(found) if found else np.zeros(1)
        mean, spread = every.mean(), every.std() + 1e-8
        filled = [replace(row, advantages=np.zeros(len(row.completion_ids), dtype=np.float32)) for row in rows]
        for index, value, advantages in zip(graded, values, found, strict=True):
            whitened = np.zeros_like(advantages) if no_signal else (advantages - mean) / spread
            filled[index] = replace(
                rows[index],
                advantages=whitened.astype(np.float32),
                returns=(advantages + value).astype(np.float32),
                old_values=np.asarray(value, dtype=np.float32),
            )
        groups = group_indices(rows)
        equal = sum(
            not differ(float(rows[index].reward or 0.0) for index in members if rows[index].is_graded)
            for members in groups.values()
        )
        return tuple(filled), reward_metrics(rows, len(groups), equal)

    def _advantages(self, value: np.ndarray, reward: float) -> np.ndarray:
        after = np.append(value[1:], 0.0)
        delta = self.gamma * after - value
        delta[-1] += reward
        out, running = np.empty_like(delta), 0.0
        for place in range(len(delta) - 1, -1, -1):
            running = delta[place] + self.gamma * self.lam * running
            out[place] = running
        return out
