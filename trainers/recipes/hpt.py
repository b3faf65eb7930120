"""hpt: imitate where the policy fails, reinforce where it succeeds, problem by problem.

Sampled: G completions of each prompt, afresh; where at most `most_solved` of them are right, a reference path takes the group's place.
Credit: grpo's, on the samples.
Loss: clipped policy gradient on the samples, NLL on the paths; a path counts as much as the group that it replaces.
Paper: arXiv 2509.04419.
No learning signal when every sample of a group is right, nor in failed groups without a reference path.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.blocks import DEMONSTRATIONS, interleaved_stage, policy_rollouts, reference_rows
from posttrain.trainers.sources.interleaved import by_problem, replace_unsolved
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class HptConfig(ClippedConfig):
    """Settings of `hpt`."""

    rate_kind: ClassVar[RateKind] = RateKind.MIXED
    most_solved: int = Field(default=0, ge=0)
    """γ, right samples up to which a problem is imitated. HPT: 0..2 of 8."""
    sft_weight: float = Field(default=1.0, gt=0)
    """Weight of imitation beside reinforcement. HPT: 1."""


def build(inputs: TrainingInputs, config: HptConfig) -> Stage:
    """Build the stage."""
    build_rows = replace_unsolved(by_problem(reference_rows(inputs)), config.most_solved)
    weight = config.sft_weight * config.group_size
    imitated = Component(term=Nll(), reduction=sequence_mean, weight=weight, roles=DEMONSTRATIONS, whole_batch=True)
    return interleaved_stage(policy_rollouts(inputs, config, "hpt", build_rows=build_rows), config, imitated)


HPT = Recipe(name="hpt", config=HptConfig, build=build)
