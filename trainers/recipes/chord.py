"""chord: begin with imitation and pass over to the policy's own samples.

Sampled: grpo's groups, and beside them a batch of reference paths from shuffled epochs.
Credit: grpo's, on the samples.
Loss: (1 − μ) · grpo's + μ · NLL of the paths, whose tokens are weighted by φ = π(1 − π), so that neither known nor out-of-support tokens dominate;
μ falls linearly from `mu_start` to `mu_end` over `mu_steps`.
Paper: arXiv 2508.11408.
No learning signal from the samples when every one of a group earns the same reward, nor from the paths when they are likely or out of reach.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import DEMONSTRATIONS, interleaved_stage, policy_rollouts, reference_rows
from posttrain.trainers.sources.interleaved import add_demonstrations
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class ChordConfig(ClippedConfig):
    """Settings of `chord`."""

    rate_kind: ClassVar[RateKind] = RateKind.MIXED
    rows_per_batch: int = Field(default=16, ge=1)
    """Reference paths beside each batch of samples."""
    mu_start: float = Field(default=0.9, ge=0, le=1)
    """Weight of imitation at the first step. CHORD-µ: 0.9."""
    mu_end: float = Field(default=0.05, ge=0, le=1)
    """Weight of imitation from `mu_steps` on. CHORD-µ: 0.05."""
    mu_steps: int = Field(default=50, ge=1)
    """Steps over which the weight falls. CHORD-µ: 200."""
    token_weight: str = Field(default="doubt", pattern="^(one|doubt)$")
    """`doubt` weighs a path's tokens by φ = π(1 − π), `one` not at all."""


def build(inputs: TrainingInputs, config: ChordConfig) -> Stage:
    """Build the stage."""
    known = reference_rows(inputs)

    def mu(step: int) -> float:
        return config.mu_start + (config.mu_end - config.mu_start) * min(1.0, step / config.mu_steps)

    imitated = Component(term=Nll(token_weight=config.token_weight), reduction=token_mean, weight=mu, roles=DEMONSTRATIONS)
    build_rows = add_demonstrations(known, config.rows_per_batch, config.seed)
    source = policy_rollouts(inputs, config, "chord", build_rows=build_rows)
    return interleaved_stage(source, config, imitated, weight=lambda step: 1 - mu(step))


CHORD = Recipe(name="chord", config=ChordConfig, build=build)
