"""logit_kd: on given paths, bring the whole next-token distribution to the teacher's.

Sampled: nothing; the rows are the reference paths of train problems, or those of `--data`.
Credit: none.
Loss: KL(teacher‖π) over the vocabulary at each token, both at `temperature`, averaged over tokens.
Paper: arXiv 1503.02531.
No learning signal when student and teacher agree. On paths the student never takes it teaches what is never used.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.types import LEAST_TEMPERATURE, MOST_TEMPERATURE
from posttrain.trainers.config import ReferenceConfig
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import given_rows, require_teacher
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class LogitKdConfig(ReferenceConfig):
    """Settings of `logit_kd`."""

    beta: float = Field(default=0.0, ge=0, le=1)
    """0: KL(teacher‖π), 1: KL(π‖teacher), between: Jensen–Shannon."""
    temperature: float = Field(default=1.0, ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)
    """Of both distributions; above 1, low-probability tokens count more."""


def build(inputs: TrainingInputs, config: LogitKdConfig) -> Stage:
    """Build the stage."""
    require_teacher(inputs, "logit_kd")
    term = TeacherDivergence(beta=config.beta, temperature=config.temperature)
    return Stage(source=given_rows(inputs, config), components=(Component(term=term, reduction=token_mean),))


LOGIT_KD = Recipe(name="logit_kd", config=LogitKdConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
