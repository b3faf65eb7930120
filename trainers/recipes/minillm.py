"""minillm: minimise the reverse KL of whole samples, by policy gradient.

Sampled: completions of each prompt from the student.
Credit: the mean of log teacher − log π over the tokens that follow.
Loss: the reverse KL of each single step over the vocabulary, exact, and a clipped policy gradient for its consequences, averaged over the tokens of a
sample, then over samples.
Paper: arXiv 2306.08543.
Changed from the paper: samples come from the student alone, not from a mixture with the teacher; a capped importance weight corrects the difference
between sampler and trainer; there is no language-modelling loss beside.
No learning signal when student and teacher agree. Its policy gradient is noisy where opd, which leaves consequences out, is not.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import StudentConfig
from posttrain.trainers.credit.teacher import TeacherCredit
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.blocks import require_teacher, student_rollouts
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class MinillmConfig(StudentConfig):
    """Settings of `minillm`."""

    consequences: float = Field(default=0.5, ge=0)
    """Weight of the policy gradient beside the single steps. Paper: 1."""
    eps: float = Field(default=0.2, gt=0, lt=1)
    """Clip of the ratio. Paper: 0.2."""
    importance_cap: float | None = Field(default=2.0, gt=0)
    """As for grpo; on the policy gradient alone."""


def build(inputs: TrainingInputs, config: MinillmConfig) -> Stage:
    """Build the stage."""
    require_teacher(inputs, "minillm")
    return Stage(
        source=student_rollouts(inputs, config, "minillm"),
        credit=TeacherCredit(),
        components=(
            Component(term=TeacherDivergence(beta=1.0), reduction=sequence_mean),
            Component(
                term=PolicyGradient(eps_low=config.eps, eps_high=config.eps, importance_cap=config.importance_cap),
                reduction=sequence_mean,
                weight=config.consequences,
            ),
        ),
    )


MINILLM = Recipe(name="minillm", config=MinillmConfig, build=build, reads=frozenset({Material.PROMPTS}))
