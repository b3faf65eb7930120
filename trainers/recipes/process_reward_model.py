"""process_reward_model: learn from labelled steps which of them are right.

Sampled: nothing where labelled steps are given with `--data`; else n completions of every train problem, once, divided into steps, each labelled by
whether any of `num_rollouts` continuations behind it ends right.
Credit: none.
Loss: cross-entropy of the head behind the last token of each step, averaged over steps. The checkpoint is a token classifier with the labels wrong and
right (`AutoModelForTokenClassification`), which the stage `process` takes as its step feedback.
Papers: arXiv 2305.20050; labels by rollouts: 2312.08935.
No learning signal when all steps have one label.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import EpochConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.objectives.reductions import step_mean
from posttrain.trainers.objectives.reward_modelling import StepCorrectness
from posttrain.trainers.recipes.blocks import repeat_last_token
from posttrain.trainers.sources.policy import num_tokens, sampler_of
from posttrain.trainers.sources.prepared import Made, PreparedRows, change_rows, fixed
from posttrain.trainers.sources.step_scores import by_rollouts, score_steps
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class ProcessRewardModelConfig(EpochConfig):
    """Settings of `process_reward_model`."""

    rate_kind: ClassVar[RateKind] = RateKind.JUDGE
    num_samples: int = Field(default=4, ge=1)
    """Samples per problem, where no labelled steps are given."""
    num_rollouts: int = Field(default=4, ge=1)
    """Continuations sampled behind each step. Math-Shepherd: 8."""
    step_separator: str = Field(default="\n", min_length=1)
    """Text that ends a step, where nothing is given."""


def build(inputs: TrainingInputs, config: ProcessRewardModelConfig) -> Stage:
    """Build the stage."""

    def label_samples() -> Made:
        sampler = sampler_of(inputs)
        sampled = sampler.sample_problems(inputs.training_set.train, num_samples=config.num_samples, seed=f"prm|{config.seed}")
        score = by_rollouts(sampler, inputs.training_set, inputs.tokenizer, num_rollouts=config.num_rollouts, seed=config.seed)
        scored = score_steps(inputs.tokenizer, config.step_separator, score)(inputs.training_set.train, sampled, 0)
        rows = [replace(row, step_scores=tuple(float(value > 0) for value in row.step_scores)) for row in scored]
        return rows, {"generated_tokens": num_tokens(sampled)}

    labelled = fixed(inputs.data) if inputs.data else label_samples
    return Stage(
        source=PreparedRows(change_rows(labelled, repeat_last_token), config),
        components=(Component(term=StepCorrectness(), reduction=step_mean),),
        scalar_head=scalar_head(inputs.model),
    )


PROCESS_REWARD_MODEL = Recipe(
    name="process_reward_model",
    config=ProcessRewardModelConfig,
    build=build,
    saves="process_reward_model",
    reads=frozenset({Material.STEPS}),
)
