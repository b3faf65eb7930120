"""opd: correct the student's own samples token by token with a teacher.

Sampled: one completion per prompt from the student in every batch.
Credit: none.
Loss: gkd's with the reverse KL(π‖teacher), which does not ask the student to cover what it cannot do. The teacher may be an earlier checkpoint: then
it brings back what a stage has lost, on the prompts where it was lost.
Papers: arXiv 2306.13649 with λ = 1, 2306.08543.
No learning signal when student and teacher agree. Where the student goes to places that the teacher finds unlikely, the teacher is a poor judge.
"""

from __future__ import annotations

from posttrain.trainers.config import StudentConfig
from posttrain.trainers.recipes.blocks import distillation_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class OpdConfig(StudentConfig):
    """Settings of `opd`: gkd's, all batches the student's own and the reverse KL by default."""


def build(inputs: TrainingInputs, config: OpdConfig) -> Stage:
    """Build the stage."""
    return distillation_stage(inputs, config, "opd")


OPD = Recipe(name="opd", config=OpdConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS, Material.PROMPTS}))
