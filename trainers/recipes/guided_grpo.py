"""guided_grpo: learn behind the shortest beginning of a reference path that succeeds, then without it.

Sampled: G completions of each prompt of a batch, and G more from the same prompt followed by the first part of its reference path, for problems
that fail without. How much is given grows by a rung at each visit on which nothing succeeds, shrinks when at least half does, begins for a new
problem where the last batch has come to, never reaches the answer, and is annealed to nothing by the end. Credit and loss: grpo's, each prompt a group of its own; what is given is not learned.
Papers: POPE (arXiv 2601.18779), BREAD (2506.17211), Prefix-RFT (2507.01679).
The signal vanishes where no prefix short of the answer helps; then sft on the whole path is right. Provenance on-policy, interface verifier, role
reshaping with selective expansion.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.errors import UserError
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.grpo import GrpoConfig, clipped, live, rollouts, with_kl
from posttrain.trainers.sources.guided import Guide
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class GuidedGrpoConfig(GrpoConfig):
    """Knobs of `guided_grpo`."""

    num_rungs: int = Field(default=4, ge=1, description="In how many parts the allowed prefix is given.")
    anneal_after: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of the steps after which the longest prefix falls in a line to nothing; 1: never.",
    )


def build(inputs: TrainingInputs, config: GuidedGrpoConfig) -> Stage:
    """Put the stage together.

    Raises:
        UserError: No train problem has a reference path.
    """
    if not any(item.problem.references for item in inputs.training_set.train):
        raise UserError("guided_grpo needs reference paths and no train problem has one; add `references`, or use grpo")
    guide = Guide(
        engine=live(inputs, "guided_grpo"),
        graders=inputs.graders,
        num_steps=config.num_steps,
        num_rungs=config.num_rungs,
        anneal_after=config.anneal_after,
    )
    return Stage(
        source=rollouts(inputs, config, "guided_grpo", build_prompts=guide.build_prompts, finish=guide.learn, memory=guide),
        credit=GroupCredit(normalize_std=config.normalize_std),
        components=with_kl(config, sequence_mean, Component(term=clipped(config), reduction=sequence_mean)),
    )


GUIDED_GRPO = Recipe(name="guided_grpo", config=GuidedGrpoConfig, build=build, needs_verifier=True)
