"""rloo: make what was better than the other samples of its group more likely: REINFORCE with a baseline from the group.

Sampled: as grpo.
Credit: reward minus the mean of the group's other samples, which leaves the gradient unbiased; nothing is divided by a standard deviation.
Loss: clipped policy gradient with the ratio of the whole sample, Π r_t, averaged over samples.
Paper: arXiv 2402.14740.
No learning signal when every sample of a group earns the same reward.
"""

from __future__ import annotations

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import sequence_mean, sequence_sum
from posttrain.trainers.recipes.blocks import clipped_policy_gradient, policy_rollouts, with_kl
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class RlooConfig(ClippedConfig):
    """Settings of `rloo`: those of a clipped policy gradient."""


def build(inputs: TrainingInputs, config: RlooConfig) -> Stage:
    """Build the stage."""
    term = clipped_policy_gradient(config, "sequence")
    return Stage(
        source=policy_rollouts(inputs, config, "rloo"),
        credit=GroupCredit(normalize_std=False, leave_one_out=True),
        components=with_kl(config, sequence_sum, Component(term=term, reduction=sequence_mean)),
    )


RLOO = Recipe(name="rloo", config=RlooConfig, build=build)
