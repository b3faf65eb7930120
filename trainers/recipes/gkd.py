"""gkd: bring the next-token distributions to the teacher's, partly on the student's own samples.

Sampled: with probability `on_policy` one completion per prompt from the student, else reference paths, or the teacher's own samples where there are
none. Nothing is graded.
Credit: none.
Loss: generalised Jensen–Shannon divergence between teacher and student over the vocabulary, averaged over tokens.
Paper: arXiv 2306.13649.
No learning signal when student and teacher agree.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import StudentConfig
from posttrain.trainers.recipes.blocks import distillation_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class GkdConfig(StudentConfig):
    """Settings of `gkd`."""

    on_policy: float = Field(default=0.5, ge=0, le=1)
    """λ, share of the batches that the student samples itself. GKD: 0.5..1."""
    beta: float = Field(default=0.5, ge=0, le=1)
    """0: KL(teacher‖π), 1: KL(π‖teacher). GKD: 0.1..0.9 by task."""


def build(inputs: TrainingInputs, config: GkdConfig) -> Stage:
    """Build the stage."""
    return distillation_stage(inputs, config, "gkd")


GKD = Recipe(name="gkd", config=GkdConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS, Material.PROMPTS}))
