"""What every run does before its first step: refuse what cannot work, and put together what takes the steps."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from posttrain.diagnose.engines.codec import template_date
from posttrain.diagnose.engines.hardware import pick_training_dtype
from posttrain.diagnose.engines.limits import context_length
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.registry import samples_problems, scored_by_teacher
from posttrain.trainers.row_json import fingerprint_rows
from posttrain.trainers.row_lengths import LengthLimit, TooLong
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.stage import Recipe, Score, Stage, TrainingInputs
from posttrain.trainers.step.forward_scores import ForwardScorer, ScoringModel
from posttrain.trainers.step.logprobs import find_shortcuts
from posttrain.trainers.step.optimizer import make_optimizer, width_of
from posttrain.trainers.step.optimizer_step import Stepper
from posttrain.trainers.training.dev_evaluation import Evaluate
from posttrain.trainers.training.resume_state import StoredState


def refuse_contradictions(
    recipe: Recipe[Any], config: TrainingConfig, evaluate: Evaluate | None = None, adapter: LoraAdapter | None = None
) -> None:
    """Refuse settings that contradict each other or what was given.

    Raises:
        SettingsError: The config is another recipe's, or settings need what is not there.
    """
    if type(config) is not recipe.config:
        raise SettingsError(
            f"{recipe.name} takes a {recipe.config.__name__}, got a {type(config).__name__}; use load_config({recipe.name!r})",
            code="other_recipes_config",
        )
    if config.eval_every is not None and evaluate is None:
        raise SettingsError(
            "eval_every is set and nothing to evaluate with was given; pass evaluate, or leave eval_every out",
            code="missing_evaluation",
        )
    for name in ("target", "max_dev_loss"):
        if getattr(config, name) is not None and config.eval_every is None:
            raise SettingsError(
                f"{name} is about evaluations of the dev slice, and eval_every is not set; set it, or leave {name} out",
                code="missing_eval_every",
            )
    if (config.lora_rank is None) != (adapter is None):
        raise SettingsError(
            f"lora_rank is {config.lora_rank} and {'no' if adapter is None else 'an'} adapter was given; give both (see LoraAdapter) or neither",
            code="adapter_without_rank" if adapter else "rank_without_adapter",
        )


def fit_lengths(recipe: Recipe[Any], inputs: TrainingInputs, config: TrainingConfig, *, evaluated: bool) -> TrainingInputs:
    """Return the inputs with rows and problems that the model can read, and that `max_length` allows; do nothing the second time.

    Args:
        recipe: Says whether problems are sampled, and whether a teacher reads the rows too.
        inputs: Rows and problems as they were given.
        config: `max_length`, and what becomes of what is longer.
        evaluated: Whether dev problems are sampled too.

    Raises:
        SettingsError: `max_length` is more than the model reads, or prompts are too long and to be refused.
        BehaviorError: Rows are too long and to be refused, or none is left.
    """
    if inputs.lengths.limit is not None:
        return inputs
    models = {"the model": inputs.model}
    teacher = inputs.teacher or inputs.earlier
    if teacher is not None and scored_by_teacher(recipe):
        models["the teacher"] = teacher.model
    known = {name: length for name, model in models.items() if (length := context_length(model.config)) is not None}
    reader = min(known, key=lambda name: known[name], default="the model")
    limit, reason = known.get(reader), f"which is what {reader} reads"
    if config.max_length is not None:
        if limit is not None and config.max_length > limit:
            raise SettingsError(
                f"max_length: got {config.max_length}, and {reader} reads {limit} tokens; give at most that, or leave max_length out",
                code="max_length_too_large",
            )
        limit, reason = config.max_length, "which is max_length"
    lengths = LengthLimit(limit=limit, reason=reason, too_long=config.too_long)
    inputs = replace(inputs, lengths=lengths, data=tuple(lengths.fit(inputs.data)))
    dropped: frozenset[str] = frozenset()
    if samples_problems(recipe, inputs, config):
        if inputs.prompts:
            gone = lengths.without_room(inputs.engine, inputs.prompts)
            inputs = replace(inputs, prompts=tuple(item for item in inputs.prompts if item.name not in gone))
        else:
            dropped = lengths.without_room(inputs.engine, inputs.training_set.train)
    if evaluated and inputs.training_set.dev:
        dropped |= lengths.without_room(inputs.engine, inputs.training_set.dev)
        if config.too_long is TooLong.REFUSE:
            lengths.fit(encode_references(inputs.engine, inputs.training_set.dev))
    if inputs.retained is not None:
        gone = lengths.without_room(inputs.engine, (*inputs.retained.train, *inputs.retained.dev))
        inputs = replace(inputs, retained=inputs.retained.without(gone))
    return replace(inputs, training_set=inputs.training_set.without(dropped)) if dropped else inputs


def fill_in_learning_rate(
    config: TrainingConfig, model: PreTrainedModel, state: StoredState | None
) -> tuple[TrainingConfig, str]:
    """Return settings whose learning rate is a number, and what to tell people of it; a run that goes on keeps its own."""
    width = width_of(model)
    rate: float = config.learning_rate_for(width) if state is None else state.record["peak_learning_rate"]
    why = f", the default for {config.rate_kind} at width {width}" if config.learning_rate is None else ""
    return config.model_copy(update={"learning_rate": rate}), f"learning rate {rate:g}{why}"


def run_identity(recipe: Recipe[Any], inputs: TrainingInputs, config: TrainingConfig) -> dict[str, Any]:
    """Return the settings and fingerprints that a resumed run must share."""
    return {
        "stage": recipe.name,
        "model": inputs.fingerprint,
        "template_date": template_date(inputs.engine.codec),
        "behaviors": {name: behavior.fingerprint for name, behavior in inputs.training_set.behaviors.items()},
        "retained": {} if inputs.retained is None else {name: one.fingerprint for name, one in inputs.retained.behaviors.items()},
        "data": inputs.data_fingerprint or fingerprint_rows(inputs.data),
        "teacher": None if inputs.teacher is None else inputs.teacher.fingerprint,
        "earlier": None if inputs.earlier is None else inputs.earlier.fingerprint,
        **config.model_dump(mode="json"),
    }


def make_scorer(
    inputs: TrainingInputs, config: TrainingConfig, stage: Stage | None = None, adapter: LoraAdapter | None = None
) -> ForwardScorer:
    """Return what runs the model in training, and the models that the terms of a stage compare it with.

    The model before training is kept where a term, an evaluation or a stage without a teacher needs it: the model without its adapter where
    it has one, else a copy.
    """
    model, processes = inputs.model, inputs.processes
    policy = ScoringModel(
        model=model,
        shortcuts=find_shortcuts(model, share_prefixes=config.share_prefixes),
        without_adapter=None if adapter is None else adapter.off,
    )
    needs = frozenset[Score]() if stage is None else stage.needs
    other = None if stage is None or stage.teaches_itself else inputs.teacher or inputs.earlier
    reference = teacher = None
    needs_teacher = bool(needs & {Score.TEACHER, Score.DIVERGENCE})
    if config.eval_every is not None or Score.REFERENCE in needs or (needs_teacher and other is None):
        reference = policy if adapter is not None else replace(policy, model=copy.deepcopy(model).requires_grad_(False))
    if needs_teacher:
        teacher = reference if other is None else ScoringModel(model=other.model, shortcuts=find_shortcuts(other.model))
    return ForwardScorer(
        policy=policy,
        dtype=pick_training_dtype(config.autocast, processes.train_device(model)),
        needs=needs,
        processes=processes,
        reference=reference,
        teacher=teacher,
        scalar_head=None if stage is None else stage.scalar_head,
    )


def make_stepper(stage: Stage, inputs: TrainingInputs, config: TrainingConfig, adapter: LoraAdapter | None = None) -> Stepper:
    """Return what takes the steps of a stage on `inputs.model`, which has this adapter where it has one.

    Each of several processes keeps its shard of the model from here on.
    """
    scorer = make_scorer(inputs, config, stage, adapter)
    for module in scorer.own_modules:
        inputs.processes.shard(module)
    return Stepper(
        model=scorer.model,
        optimizer=make_optimizer(scorer.model, config, stage.scalar_head),
        scorer=scorer,
        components=stage.components,
        config=config,
    )
