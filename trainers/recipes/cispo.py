"""cispo: grpo that clips the weight of a token, never its gradient.

Sampled: as grpo.
Credit: grpo's.
Loss: −min(r, 1 + eps_high) A log π with the weight held fixed, averaged over all tokens: tokens with a large ratio go on learning with a bounded
weight, where PPO's clip stops them. With one update per batch it is dapo's loss.
Paper: MiniMax-M1 (arXiv 2506.13585).
No learning signal when every sample of a group earns the same reward.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import RolloutConfig
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import policy_gradient_stage, policy_rollouts
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class CispoConfig(RolloutConfig):
    """Settings of `cispo`."""

    eps_high: float = Field(default=4.0, gt=0)
    """The weight is at most 1 + eps_high. ScaleRL (2510.13786): 4..8 work alike."""


def build(inputs: TrainingInputs, config: CispoConfig) -> Stage:
    """Build the stage."""
    term = PolicyGradient(eps_high=config.eps_high, detach_ratio=True, importance_cap=config.importance_cap)
    return policy_gradient_stage(policy_rollouts(inputs, config, "cispo"), config, term, token_mean)


CISPO = Recipe(name="cispo", config=CispoConfig, build=build)
