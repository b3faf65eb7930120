"""online_dpo: make the best of each fresh group likelier than its worst.

Sampled: G completions of each prompt of a batch, afresh from the policy in training; the one with the highest reward is chosen over the one with the
lowest.
Credit: none.
Loss: dpo's, averaged over pairs.
Paper: arXiv 2402.04792; fresh pairs ranked by a reward: 2402.14740, 2405.07863.
Changed from the paper: a verifier or reward model ranks, where the paper asks a judge.
No learning signal when every sample of a group earns the same reward: it gives no pair.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import RolloutConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.objectives.preferences import ReferenceMargin
from posttrain.trainers.objectives.reductions import row_mean
from posttrain.trainers.recipes.blocks import policy_rollouts
from posttrain.trainers.sources.interleaved import best_against_worst
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class OnlineDpoConfig(RolloutConfig):
    """Settings of `online_dpo`."""

    rate_kind: ClassVar[RateKind] = RateKind.PAIRS
    group_size: int = Field(default=4, ge=2)
    """Samples per prompt, of which two make the pair. Paper: 2."""
    beta: float = Field(default=0.1, gt=0)
    """How far the policy may go for a margin. Paper: 0.1."""


def build(inputs: TrainingInputs, config: OnlineDpoConfig) -> Stage:
    """Build the stage."""
    return Stage(
        source=policy_rollouts(inputs, config, "online_dpo", build_rows=best_against_worst),
        components=(Component(term=ReferenceMargin(beta=config.beta), reduction=row_mean),),
    )


ONLINE_DPO = Recipe(name="online_dpo", config=OnlineDpoConfig, build=build)
