"""cispo: grpo that clips the weight of a token, never its gradient.

As grpo, but the loss is −min(r, 1 + eps_high) A log π with the weight held fixed: tokens whose ratio ran away go on learning, with a bounded
weight, where PPO's clip silences them. All tokens count alike. Paper: MiniMax-M1 (arXiv 2506.13585).
With one update per batch it is dapo's loss. The signal vanishes in groups that are all right or all wrong. Provenance on-policy, interface
verifier, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import RolloutConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.grpo import rollouts, with_kl
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class CispoConfig(RolloutConfig):
    """Knobs of `cispo`."""

    eps_high: float = Field(
        default=4.0, gt=0, description="The weight is at most 1 + eps_high. ScaleRL (2510.13786): 4..8 work alike."
    )


def build(inputs: TrainingInputs, config: CispoConfig) -> Stage:
    """Put the stage together."""
    term = PolicyGradient(eps_high=config.eps_high, detach_ratio=True, importance_cap=config.importance_cap)
    return Stage(
        source=rollouts(inputs, config, "cispo"),
        credit=GroupCredit(),
        components=with_kl(config, token_mean, Component(term=term, reduction=token_mean)),
    )


CISPO = Recipe(name="cispo", config=CispoConfig, build=build, needs_verifier=True)
