"""opd: correct the student's own samples token by token by a teacher.

gkd with every batch from the student and the reverse KL(π‖teacher), which does not ask the student to cover what it cannot do. The teacher may be
an earlier checkpoint: then it brings back what a stage has lost, on the prompts where it was lost. Papers: arXiv 2306.13649 with λ = 1, 2306.08543.
The signal vanishes where student and teacher agree; where the student goes to places that the teacher finds odd, the teacher is a poor judge.
Provenance on-policy, interface teacher targets, role reshaping, or consolidation back from an earlier checkpoint.
"""

from __future__ import annotations

from posttrain.trainers.recipes.gkd import StudentConfig, taught
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class OpdConfig(StudentConfig):
    """Knobs of `opd`: gkd's, all batches the student's own and the reverse KL by default."""


def build(inputs: TrainingInputs, config: OpdConfig) -> Stage:
    """Put the stage together."""
    return taught(inputs, config, "opd")


OPD = Recipe(name="opd", config=OpdConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS, Material.PROMPTS}))
