"""dr_grpo: grpo without its two divisions.

Sampled: as grpo.
Credit: reward minus the group's mean; not divided by the standard deviation, which favours problems that are nearly always right or wrong.
Loss: clipped policy gradient, summed over the tokens of a sample and divided by a constant in place of its length, which favours long wrong samples.
Paper: arXiv 2503.20783.
No learning signal when every sample of a group earns the same reward.
"""

from __future__ import annotations

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import constant_length
from posttrain.trainers.recipes.blocks import clipped_policy_gradient, policy_gradient_stage, policy_rollouts
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class DrGrpoConfig(ClippedConfig):
    """Settings of `dr_grpo`: those of a clipped policy gradient."""


def build(inputs: TrainingInputs, config: DrGrpoConfig) -> Stage:
    """Build the stage."""
    longest = max(behavior.sampling.max_tokens for behavior in inputs.training_set.behaviors.values())
    source, credit = policy_rollouts(inputs, config, "dr_grpo"), GroupCredit(normalize_std=False)
    return policy_gradient_stage(source, config, clipped_policy_gradient(config), constant_length(longest), credit)


DR_GRPO = Recipe(name="dr_grpo", config=DrGrpoConfig, build=build)
