"""gspo: grpo whose ratio is that of the sample, not of the token.

Sampled: as grpo.
Credit: grpo's.
Loss: clipped policy gradient whose ratio, clip and correction are (Π r_t)^(1/T) for all tokens of a sample: the unit that is rewarded is the unit
that is clipped, which keeps mixtures of experts stable. The clips are much narrower, since a mean hardly moves.
Paper: arXiv 2507.18071.
No learning signal when every sample of a group earns the same reward.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.blocks import clipped_policy_gradient, policy_gradient_stage, policy_rollouts
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class GspoConfig(ClippedConfig):
    """Settings of `gspo`."""

    eps_low: float = Field(default=3e-4, gt=0, lt=1)
    """Lower clip of the sample's ratio. GSPO: 3e-4."""
    eps_high: float = Field(default=4e-4, gt=0)
    """Upper clip of the sample's ratio. GSPO: 4e-4."""


def build(inputs: TrainingInputs, config: GspoConfig) -> Stage:
    """Build the stage."""
    term = clipped_policy_gradient(config, "sequence_mean")
    return policy_gradient_stage(policy_rollouts(inputs, config, "gspo"), config, term, sequence_mean)


GSPO = Recipe(name="gspo", config=GspoConfig, build=build)
