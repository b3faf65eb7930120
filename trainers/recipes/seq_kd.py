"""seq_kd: imitate what a teacher writes.

Sampled: n completions of every train problem, once, from the teacher; those that the verifier calls wrong are left out. Credit: none. Loss:
−log π(y_t), averaged over tokens. Paper: arXiv 1606.07947.
The teacher may have another tokenizer: its texts are tokenised as the student's. The signal vanishes where the teacher fails too, and where its
paths are likely already. Provenance off-policy, interface teacher targets, role consolidation, or expansion where the teacher knows more.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from posttrain.diagnose.types import Reference
from posttrain.trainers.config import EpochConfig
from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.logit_kd import teacher_of
from posttrain.trainers.sources.prepared import Made, PreparedRows, in_epochs
from posttrain.trainers.sources.verified import sample_verified
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import RowRole, TrainingRow


class TracesConfig(EpochConfig):
    """Knobs of what a teacher writes."""

    num_samples: int = Field(default=4, ge=1, description="Samples the teacher draws per problem.")
    max_per_problem: int = Field(default=4, ge=1, description="Distinct verified samples kept per problem.")
    temperature: float = Field(default=1.0, gt=0, description="Of the teacher's draw.")


class SeqKdConfig(TracesConfig):
    """Knobs of `seq_kd`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak. As sft.")


def teacher_traces(inputs: TrainingInputs, config: TracesConfig, stage: str, *, same_tokens: bool) -> PreparedRows:
    """The teacher's verified samples as rows of the student.

    Raises:
        SettingsError: There is no teacher, or it cannot be used.
    """
    teacher = teacher_of(inputs, stage, same_tokens=same_tokens)
    sample = sample_verified(
        teacher.engine,
        inputs.graders,
        inputs.training_set,
        num_samples=config.num_samples,
        temperature=config.temperature,
        max_per_problem=config.max_per_problem,
        seed=f"teacher|{config.seed}",
    )
    items = {(item.behavior.name, item.problem.id): item for item in inputs.training_set.train}

    def as_student(row: TrainingRow) -> TrainingRow:
        item = items[row.behavior, row.problem_id]
        prompt = inputs.engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt)
        ids = row.completion_ids
        if prompt.token_ids != row.prompt_ids:
            ids = inputs.engine.codec.encode_path(prompt, Reference(steps=(row.text,))).token_ids
        return replace(row, prompt_ids=prompt.token_ids, completion_ids=ids, sampler_logprobs=None, role=RowRole.DEMONSTRATION)

    def make() -> Made:
        rows, metrics = sample()
        return [as_student(row) for row in rows], metrics

    return in_epochs(make, config)


def build(inputs: TrainingInputs, config: SeqKdConfig) -> Stage:
    """Put the stage together."""
    source = teacher_traces(inputs, config, "seq_kd", same_tokens=False)
    return Stage(source=source, credit=NoCredit(), components=(Component(term=Nll(), reduction=token_mean),))


SEQ_KD = Recipe(name="seq_kd", config=SeqKdConfig, build=build, needs_verifier=True)
