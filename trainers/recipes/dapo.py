"""dapo: grpo whose batches are full of signal, and whose low-probability tokens may rise further.

Sampled: as grpo, but further problems are sampled until a batch has enough groups whose rewards differ (dynamic sampling).
Credit: grpo's.
Loss: clipped policy gradient whose upper clip is wider than the lower one, so that exploration is not cut, averaged over all tokens alike. With
equal clips and without resampling it is grpo under `token_mean`.
Paper: arXiv 2503.14476.
Changed from the paper: no penalty for answers near the length limit; a truncated sample has reward 0.
No learning signal when no problem of the train set has a group whose rewards differ.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import clipped_policy_gradient, policy_gradient_stage, policy_rollouts
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class DapoConfig(ClippedConfig):
    """Settings of `dapo`."""

    eps_high: float = Field(default=0.28, gt=0)
    """Upper clip of the ratio. DAPO: 0.28."""
    max_resamples: int = Field(default=3, ge=0)
    """Further rounds of sampling to fill a batch with groups whose rewards differ; 0: none."""


def build(inputs: TrainingInputs, config: DapoConfig) -> Stage:
    """Build the stage."""
    source = policy_rollouts(inputs, config, "dapo", max_resamples=config.max_resamples)
    return policy_gradient_stage(source, config, clipped_policy_gradient(config), token_mean)


DAPO = Recipe(name="dapo", config=DapoConfig, build=build)
