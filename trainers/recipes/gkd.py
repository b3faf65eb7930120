"""gkd: bring the next-token distributions to the teacher's, partly on the student's own samples.

Sampled: with probability `on_policy` one completion per prompt from the live student, else reference paths, or the teacher's own samples where
there are none. Credit: none. Loss: generalised Jensen–Shannon divergence between teacher and student over the vocabulary, averaged over tokens.
Nothing is graded. Paper: arXiv 2306.13649.
The signal vanishes where student and teacher agree; on its own samples the student is corrected where it really goes. Provenance on-policy (in
part), interface teacher targets, role reshaping, at times consolidation.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.grpo import live
from posttrain.trainers.recipes.logit_kd import teacher_of
from posttrain.trainers.recipes.seq_kd import TracesConfig, teacher_traces
from posttrain.trainers.recipes.sft import epochs
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.mixture import Mixture
from posttrain.trainers.sources.policy import Finish, PolicySource
from posttrain.trainers.stage import Component, Recipe, Source, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class StudentConfig(TracesConfig):
    """Knobs of stages in which a teacher corrects the student's own samples."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak. On-policy distillation: 5e-5 for all weights, 1e-4 LoRA.")
    num_steps: int = Field(default=100, ge=1, description="Batches.")
    problems_per_batch: int = Field(default=16, ge=1, description="Prompts per batch of the student's own samples.")
    group_size: int = Field(default=1, ge=1, description="Samples of the student per prompt.")
    on_policy: float = Field(default=1.0, ge=0, le=1, description="λ, share of the batches that the student samples itself.")
    beta: float = Field(default=1.0, ge=0, le=1, description="0: KL(teacher‖π), 1: KL(π‖teacher), between: Jensen–Shannon.")


class GkdConfig(StudentConfig):
    """Knobs of `gkd`."""

    on_policy: float = Field(
        default=0.5, ge=0, le=1, description="λ, share of the batches that the student samples itself. GKD: 0.5..1."
    )
    beta: float = Field(default=0.5, ge=0, le=1, description="0: KL(teacher‖π), 1: KL(π‖teacher). GKD: 0.1..0.9 by task.")


def student_samples(inputs: TrainingInputs, config: StudentConfig, stage: str, finish: Finish | None = None) -> PolicySource:
    """Fresh ungraded samples of the live student."""
    return PolicySource(
        live(inputs, stage),
        None,
        inputs.prompts or inputs.training_set.train,
        problems_per_batch=config.problems_per_batch,
        group_size=config.group_size,
        num_steps=config.num_steps,
        num_updates=1,
        seed=config.seed,
        finish=finish,
    )


def student_or_given(inputs: TrainingInputs, config: StudentConfig, stage: str) -> Source:
    """The student's samples, mixed with reference paths or the teacher's samples. With prompts alone all batches are the student's.

    Raises:
        SettingsError: There are rows that no batch would hold.
    """
    own = student_samples(inputs, config, stage)
    if config.on_policy == 1.0 and inputs.data:
        raise SettingsError(
            f"{stage}: got answers to imitate and on_policy=1, which samples every batch; lower on_policy, or give prompts alone"
        )
    if config.on_policy == 1.0 or inputs.prompts:
        return own
    rows = list(inputs.data) or encode_references(inputs.engine, inputs.training_set.train)
    given = epochs(rows, config) if rows else teacher_traces(inputs, config, stage, same_tokens=True)
    return Mixture(own, given, share=config.on_policy, seed=config.seed)


def taught(inputs: TrainingInputs, config: StudentConfig, stage: str) -> Stage:
    """The divergence to the teacher on the student's own samples, or partly on given paths.

    Raises:
        SettingsError: There is no teacher, or it cannot be used.
    """
    teacher_of(inputs, stage)
    return Stage(
        source=student_or_given(inputs, config, stage),
        credit=NoCredit(),
        components=(Component(term=TeacherDivergence(beta=config.beta), reduction=token_mean),),
    )


def build(inputs: TrainingInputs, config: GkdConfig) -> Stage:
    """Put the stage together."""
    return taught(inputs, config, "gkd")


GKD = Recipe(name="gkd", config=GkdConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS, Material.PROMPTS}))
