"""self_distill: learn to do without a scaffold what succeeds with it.

Sampled: completions of every train problem from the model before training, behind the scaffolded prompt (a hint, worked examples, the reference path
as a hint), those that the verifier calls wrong left out; with `on_policy` > 0 in part of the batches the student's own, behind the plain prompt.
Credit: none.
Loss: divergence over the vocabulary between the model before training behind the scaffolded prompt and the policy behind the plain one, averaged over
tokens. `best_of_n` has no prompt to see: its verified samples are imitated.
Papers: arXiv 2209.15189 (context distillation), 2112.00861; on the student's own samples 2306.13649 with itself as the teacher.
No learning signal when the scaffold changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.probes.scaffold import with_examples, with_hint, worked_examples
from posttrain.trainers.config import StudentConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.objectives.divergences import TeacherDivergence
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import imitation_stage, student_rollouts
from posttrain.trainers.sources.mixed import MixedSource
from posttrain.trainers.sources.policy import RolloutRequest, sampler_of
from posttrain.trainers.sources.prepared import PreparedRows, change_rows
from posttrain.trainers.sources.verified import sample_verified
from posttrain.trainers.stage import Component, Recipe, Source, Stage, TrainingInputs
from posttrain.trainers.training_types import RowRole, TrainingProblem, TrainingRow


class SelfDistillConfig(StudentConfig):
    """Settings of `self_distill`."""

    rate_kind: ClassVar[RateKind] = RateKind.IMITATION
    scaffold: str = Field(default="auto", pattern="^(auto|hint|few_shot|reference|best_of_n)$")
    """What the teacher is given: the problem's `hint`, `few_shot` worked examples, the `reference` path, or `best_of_n`; auto: hints where most
    problems have one, else worked examples, else best_of_n."""
    num_samples: int = Field(default=8, ge=1)
    """Samples per problem behind the scaffold."""
    on_policy: float = Field(default=0.0, ge=0, le=1)
    """Share of the batches that the student samples itself."""
    beta: float = Field(default=0.0, ge=0, le=1)
    """0: KL(scaffolded‖plain), 1: KL(plain‖scaffolded)."""


def scaffolded(inputs: TrainingInputs, config: SelfDistillConfig) -> dict[str, tuple[int, ...]]:
    """Return `behavior/problem` → the prompt with the scaffold, of the problems that have one.

    Raises:
        UserError: None has.
    """
    found: dict[str, tuple[int, ...]] = {}
    for item in inputs.training_set.train:
        ids = _prompt(inputs, item, config)
        if ids is not None:
            found[item.name] = ids
    if not found:
        what = "a `hint`" if config.scaffold == "hint" else "`references`"
        raise UserError(
            f"self_distill with scaffold={config.scaffold}: no train problem has {what}; add them, or give another scaffold",
            code="no_scaffold",
        )
    return found


def _prompt(inputs: TrainingInputs, item: TrainingProblem, config: SelfDistillConfig) -> tuple[int, ...] | None:
    problem, written = item.problem, item.behavior.prompt
    if config.scaffold == "few_shot":
        examples = [one for one in worked_examples(item.behavior, str(config.seed)) if one.id != problem.id]
        if not examples:
            return None
        return inputs.engine.codec.encode_prompt(*with_examples(problem, written, examples)).token_ids
    if config.scaffold == "reference":
        problem = replace(problem, hint=problem.references[0].text.strip() if problem.references else None)
    if problem.hint is None:
        return None
    return inputs.engine.codec.encode_prompt(with_hint(problem), written).token_ids


def _choose(inputs: TrainingInputs) -> str:
    items = inputs.training_set.train
    if sum(item.problem.hint is not None for item in items) * 2 >= len(items):
        return "hint"
    return "few_shot" if any(item.problem.references for item in items) else "best_of_n"


def build(inputs: TrainingInputs, config: SelfDistillConfig) -> Stage:
    """Build the stage.

    Raises:
        UserError: No train problem has the scaffold.
    """
    if config.scaffold == "auto":
        config = config.model_copy(update={"scaffold": _choose(inputs)})
    prompts = {} if config.scaffold == "best_of_n" else scaffolded(inputs, config)
    plain_ids = {
        item.name: inputs.engine.codec.encode_prompt(item.problem.prompt, item.behavior.prompt).token_ids
        for item in inputs.training_set.train
    }

    def build_requests() -> list[RolloutRequest]:
        items = inputs.training_set.train
        return [
            RolloutRequest(item=item, prompt_ids=prompts.get(item.name, plain_ids[item.name]))
            for item in items
            if not prompts or item.name in prompts
        ]

    sample = sample_verified(
        sampler_of(inputs),
        inputs.training_set,
        config.model_copy(update={"max_per_problem": 1}) if config.scaffold == "best_of_n" else config,
        seed=f"self|{config.seed}",
        build_requests=build_requests,
    )

    def without_scaffold(row: TrainingRow) -> TrainingRow:
        """Put a row behind the plain prompt, with the scaffolded one beside it for the teacher."""
        name = f"{row.behavior}/{row.problem_id}"
        return replace(
            row,
            prompt_ids=plain_ids[name],
            teacher_prompt_ids=prompts.get(name),
            sampler_logprobs=None,
            role=RowRole.DEMONSTRATION,
        )

    given = PreparedRows(change_rows(sample, without_scaffold), config)
    if not prompts:
        return imitation_stage(given)
    source: Source = given
    if config.on_policy > 0:
        own = student_rollouts(
            inputs,
            config,
            "self_distill",
            lambda items, rows, step: inputs.lengths.within(
                [row for row in map(without_scaffold, rows) if row.teacher_prompt_ids]
            ),
        )
        source = MixedSource(own, given, on_policy=config.on_policy, seed=config.seed)
    term = TeacherDivergence(beta=config.beta)
    return Stage(source=source, components=(Component(term=term, reduction=token_mean),), teaches_itself=True)


SELF_DISTILL = Recipe(name="self_distill", config=SelfDistillConfig, build=build)
