"""Credit for single steps: a step is worth what the worst step from it on is worth (PURE, arXiv 2504.15275)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.trainers.credit.group import differ, group_indices, reward_metrics
from posttrain.trainers.stage import Credit, RowScorer
from posttrain.trainers.training_types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCredit(Credit):
    """A_k = min_{j ≥ k} s_j − the mean over the group's other rows of min_j s_j, for every token of step k.

    The minimum, not the sum, because a sum is raised by writing more steps. `outcome_weight` adds that share of the verifier's own reward,
    compared within the group, so that good-looking steps without a right answer are not rewarded for ever. A group in which every step
    of every row is worth the same has no signal.
    """

    outcome_weight: float = 0.1

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return rows with advantages that change from step to step."""
        groups = group_indices(rows)
        advantages = [np.zeros(len(row.completion_ids), dtype=np.float32) for row in rows]
        num_without_signal = 0
        for members in groups.values():
            graded = [index for index in members if _is_scored(rows[index])]
            futures = {index: np.minimum.accumulate(np.array(rows[index].step_scores)[::-1])[::-1] for index in graded}
            rewards = {index: float(rows[index].reward or 0.0) for index in graded}
            levels = [float(value) for future in futures.values() for value in future]
            if len(graded) < 2 or not (differ(levels) or differ(rewards.values())):
                num_without_signal += 1
                continue
            for index in graded:
                others = [other for other in graded if other != index]
                step_baseline = float(np.mean([futures[other][0] for other in others]))
                outcome = rewards[index] - float(np.mean([rewards[other] for other in others]))
                start = 0
                for end, future in zip(rows[index].step_ends, futures[index], strict=True):
                    advantages[index][start : end + 1] = (future - step_baseline) + self.outcome_weight * outcome
                    start = end + 1
                advantages[index][start:] = (futures[index][-1] - step_baseline) + self.outcome_weight * outcome
        filled = tuple(replace(row, advantages=values) for row, values in zip(rows, advantages, strict=True))
        scores = [score for row in rows for score in row.step_scores if math.isfinite(score)]
        metrics = reward_metrics(rows, len(groups), num_without_signal)
        return filled, metrics | {"step_score": float(np.mean(scores)) if scores else float("nan")}


def _is_scored(row: TrainingRow) -> bool:
    """Return whether reward and steps of a row are known."""
    return row.is_graded and len(row.step_ends) > 0 and all(map(math.isfinite, row.step_scores))
