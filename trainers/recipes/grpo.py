"""grpo: make what was better than its group more likely.

Sampled: G completions of each prompt of a batch, afresh from the policy in training.
Credit: reward minus the group's mean, over its standard deviation, the same for every token.
Loss: clipped policy gradient, averaged over the tokens of a sample, then over samples; a k3 divergence to the model before training where
`kl_weight` > 0.
Paper: DeepSeekMath (arXiv 2402.03300).
Changed from the paper: one optimizer step per batch by default, so the ratio is exactly 1 and nothing is clipped; a capped importance weight between
sampler and trainer precision; rows without advantage are not run; a batch without signal makes no step, and one with little signal a small one.
No learning signal when every sample of a group earns the same reward.
"""

from __future__ import annotations

from posttrain.trainers.config import GroupConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.recipes.blocks import REDUCTIONS, clipped_policy_gradient, policy_gradient_stage, policy_rollouts
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class GrpoConfig(GroupConfig):
    """Settings of `grpo`."""


def build(inputs: TrainingInputs, config: GrpoConfig) -> Stage:
    """Build the stage.

    Raises:
        SettingsError: The engine samples frozen weights.
    """
    credit = GroupCredit(normalize_std=config.normalize_std)
    source, reduction = policy_rollouts(inputs, config, "grpo"), REDUCTIONS[config.reduction]
    return policy_gradient_stage(source, config, clipped_policy_gradient(config), reduction, credit)


GRPO = Recipe(name="grpo", config=GrpoConfig, build=build)
