"""logit_kd: on given paths, bring the whole next-token distribution to the teacher's.

Sampled: nothing; the rows are the reference paths of train problems, or those of `--data`. Credit: none. Loss: KL(teacher‖π) over the vocabulary
at each token, both at `temperature`, averaged over tokens. Paper: arXiv 1503.02531.
The signal vanishes where student and teacher agree; on paths the student never takes it teaches what is never asked. Provenance off-policy,
interface teacher targets, role consolidation.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.sft import SftConfig, demonstrations, epochs
from posttrain.trainers.stage import Component, OtherModel, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class LogitKdConfig(SftConfig):
    """Knobs of `logit_kd`."""

    beta: float = Field(default=0.0, ge=0, le=1, description="0: KL(teacher‖π), 1: KL(π‖teacher), between: Jensen–Shannon.")
    temperature: float = Field(default=1.0, gt=0, description="Of both distributions; above 1 the unlikely tokens count more.")


def teacher_of(inputs: TrainingInputs, stage: str, *, same_tokens: bool = True) -> OtherModel:
    """The teacher of a stage, or the earlier checkpoint where no teacher is given.

    Args:
        inputs: What there is.
        stage: For the message.
        same_tokens: Whether student and teacher must read the same tokens.

    Raises:
        SettingsError: There is none, it is the policy itself, or its tokens are others.
    """
    teacher = inputs.teacher or inputs.earlier
    if teacher is None:
        raise SettingsError(f"{stage} needs a teacher; give one with --teacher, or an earlier checkpoint with --earlier")
    if inputs.fingerprint and teacher.fingerprint == inputs.fingerprint:
        raise SettingsError(
            f"{stage}: the teacher {teacher.source} is the policy itself, which has nothing to teach; give another model, or use self_distill, "
            "where the teacher sees a hint or worked examples"
        )
    if same_tokens and inputs.tokenizer is not None:
        mine, other = inputs.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
        width = None if inputs.model is None else inputs.model.get_output_embeddings().weight.shape[0]
        if mine != other or (width is not None and teacher.model.get_output_embeddings().weight.shape[0] != width):
            raise SettingsError(
                f"{stage} compares next-token distributions, and the teacher {teacher.source} has other tokens ({len(other)}, here {len(mine)}); "
                "use seq_kd, which learns from its texts"
            )
    return teacher


def build(inputs: TrainingInputs, config: LogitKdConfig) -> Stage:
    """Put the stage together."""
    teacher_of(inputs, "logit_kd")
    rows = demonstrations(inputs, "logit_kd", config.max_references)
    term = TeacherDivergence(beta=config.beta, temperature=config.temperature)
    return Stage(source=epochs(rows, config), credit=NoCredit(), components=(Component(term=term, reduction=token_mean),))


LOGIT_KD = Recipe(name="logit_kd", config=LogitKdConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
