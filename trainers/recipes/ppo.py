"""ppo: make what went better than a learned value function expected more likely.

Sampled: as grpo.
Credit: generalised advantage estimation against a scalar head on the policy's own last hidden states, whitened over the batch.
Loss: clipped policy gradient and `value_weight` times the clipped squared error of the values, averaged over all tokens; a k3 divergence to the
model before training where `kl_weight` > 0.
Paper: arXiv 1707.06347, for language 2203.02155.
Changed from the papers: the value function is one head, which begins at 0, on the policy's trunk, in place of a second model; the divergence is a
term of the loss, not of the reward.
No learning signal when all rewards of a batch are equal: then there is no step.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.credit.value import ValueCredit
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.objectives.policy_gradient import ValueLoss
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import clipped_policy_gradient, policy_rollouts, with_kl
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class PpoConfig(ClippedConfig):
    """Settings of `ppo`."""

    updates_per_batch: int = Field(default=2, ge=1)
    """Optimizer steps per batch. InstructGPT: 4."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """λ of the advantage estimate: 0 trusts the values, 1 the rewards."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token. Language: 1."""
    value_weight: float = Field(default=0.1, gt=0)
    """Weight of the value loss. InstructGPT: 0.1."""
    value_clip: float = Field(default=0.2, gt=0)
    """How far values may move in one batch. InstructGPT: 0.2."""


def build(inputs: TrainingInputs, config: PpoConfig) -> Stage:
    """Build the stage."""
    return Stage(
        source=policy_rollouts(inputs, config, "ppo"),
        credit=ValueCredit(gamma=config.gamma, lam=config.lam),
        components=with_kl(
            config,
            token_mean,
            Component(term=clipped_policy_gradient(config), reduction=token_mean),
            Component(term=ValueLoss(clip=config.value_clip), reduction=token_mean, weight=config.value_weight),
        ),
        scalar_head=scalar_head(inputs.model),
    )


PPO = Recipe(name="ppo", config=PpoConfig, build=build)
