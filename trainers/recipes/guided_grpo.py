"""guided_grpo: learn behind the shortest beginning of a reference path that succeeds, then without it.

Sampled: G completions of each prompt of a batch, and G more from the same prompt followed by the first part of its reference path, for problems
that fail without. The part grows at each visit on which nothing succeeds, shrinks when at least half does, begins for a new problem where the last
batch has come to, never reaches the answer, and is annealed to nothing by the end.
Credit: grpo's, each prompt a group of its own.
Loss: grpo's; the part that is given is not learned.
Papers: POPE (arXiv 2601.18779), BREAD (2506.17211), Prefix-RFT (2507.01679).
No learning signal when no prefix short of the answer helps; then sft on the whole path is right.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import GroupConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.recipes.blocks import REDUCTIONS, clipped_policy_gradient, policy_gradient_stage, policy_rollouts
from posttrain.trainers.sources.guided import Guide
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class GuidedGrpoConfig(GroupConfig):
    """Settings of `guided_grpo`."""

    rate_kind: ClassVar[RateKind] = RateKind.MIXED
    num_rungs: int = Field(default=4, ge=1)
    """In how many parts the allowed prefix is given."""
    anneal_after: float = Field(default=0.5, ge=0, le=1)
    """Share of the steps after which the longest prefix falls in a line to nothing; 1: never."""


def build(inputs: TrainingInputs, config: GuidedGrpoConfig) -> Stage:
    """Build the stage."""
    guide = Guide(
        engine=inputs.engine,
        graders=inputs.graders,
        num_steps=config.num_steps,
        num_rungs=config.num_rungs,
        anneal_after=config.anneal_after,
    )
    source = policy_rollouts(
        inputs, config, "guided_grpo", build_prompts=guide.build_prompts, build_rows=guide.learn, memory=guide
    )
    reduction, credit = REDUCTIONS[config.reduction], GroupCredit(normalize_std=config.normalize_std)
    return policy_gradient_stage(source, config, clipped_policy_gradient(config), reduction, credit)


GUIDED_GRPO = Recipe(name="guided_grpo", config=GuidedGrpoConfig, build=build)
