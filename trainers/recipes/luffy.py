"""luffy: put a reference path into each group of the policy's own samples.

Sampled: G completions of each prompt, afresh; one reference path of the problem joins the group with reward 1.
Credit: grpo's, over all of them.
Loss: clipped policy gradient on the samples, −f(π) A with f(π) = π/(π + γ) on the reference path's tokens, averaged over the tokens of a row, then
over rows of both kinds.
Paper: arXiv 2504.14945.
Changed from the paper: one path a group, whatever its size.
No learning signal when every sample is right: then the path has none either. Where no sample is right only the path is learned, as under sft.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.objectives.policy_gradient import ShapedImitation
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.blocks import DEMONSTRATIONS, interleaved_stage, policy_rollouts, reference_rows
from posttrain.trainers.sources.interleaved import by_problem, join_group
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class LuffyConfig(ClippedConfig):
    """Settings of `luffy`."""

    rate_kind: ClassVar[RateKind] = RateKind.MIXED
    gamma: float = Field(default=0.1, gt=0)
    """γ of f(π) = π/(π + γ): small weighs unlikely tokens more. LUFFY: 0.1."""


def build(inputs: TrainingInputs, config: LuffyConfig) -> Stage:
    """Build the stage."""
    term = ShapedImitation(gamma=config.gamma)
    shaped = Component(term=term, reduction=sequence_mean, roles=DEMONSTRATIONS, whole_batch=True)
    build_rows = join_group(by_problem(reference_rows(inputs)))
    return interleaved_stage(policy_rollouts(inputs, config, "luffy", build_rows=build_rows), config, shaped)


LUFFY = Recipe(name="luffy", config=LuffyConfig, build=build)
