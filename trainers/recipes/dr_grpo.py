"""dr_grpo: grpo without its two divisions.

As grpo, but advantages are not divided by the group's standard deviation, which favours problems that are nearly always right or wrong, and
the loss of a sample is divided by a constant in place of its length, which let long wrong samples off lightly. Paper: arXiv 2503.20783.
The signal vanishes in groups that are all right or all wrong. Provenance on-policy, interface verifier, role reshaping.
"""

from __future__ import annotations

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import constant_length
from posttrain.trainers.recipes.grpo import ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class DrGrpoConfig(ClippedConfig):
    """Knobs of `dr_grpo`: those of a clipped policy gradient."""


def build(inputs: TrainingInputs, config: DrGrpoConfig) -> Stage:
    """Put the stage together."""
    longest = max(behavior.sampling.max_tokens for behavior in inputs.training_set.behaviors.values())
    reduction = constant_length(longest)
    return Stage(
        source=rollouts(inputs, config, "dr_grpo"),
        credit=GroupCredit(normalize_std=False),
        components=with_kl(config, reduction, Component(term=clipped(config), reduction=reduction)),
    )


DR_GRPO = Recipe(name="dr_grpo", config=DrGrpoConfig, build=build, needs_verifier=True)
