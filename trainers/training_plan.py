"""What a training run would do, before a model is loaded: `posttrain train --dry-run`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.tokenizer_only import TokenizerOnly, open_tokenizer
from posttrain.diagnose.report.words import describe_limit
from posttrain.diagnose.sampling.token_limit import MOST_THOUGHT, limit_without_pilot, recorded_limit
from posttrain.diagnose.stage_catalogue import STAGES
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior, Split
from posttrain.diagnose.verifiers.thinking import follow_template
from posttrain.trainers.config import (
    EpochConfig,
    PairConfig,
    ReferenceConfig,
    RolloutConfig,
    StudentConfig,
    TrainingConfig,
)
from posttrain.trainers.data.data_set import materials, read_data
from posttrain.trainers.recipes.registry import RECIPES, refuse_unread
from posttrain.trainers.rollouts.live_engines import check_engine
from posttrain.trainers.row_lengths import LengthLimit
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.finished_run import read_run
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.train_request import TrainRequest, check_before_loading
from posttrain.trainers.training.weight_choice import chosen_by_dev
from posttrain.trainers.training_types import Material, TrainingProblem, TrainingRow, TrainingSet


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """What a run would do; None where that is known only after sampling."""

    lines: tuple[str, ...]
    """The same for people."""
    learning_rate: float | None
    num_rows: int | None
    """Rows that are there before anything is sampled."""
    num_steps: int | None
    """Optimizer batches."""
    trained_tokens: int | None
    """Tokens of answers, over all steps, as a run counts them."""
    generated_tokens: int
    """What is sampled in training, at most."""


def plan_training(request: TrainRequest) -> TrainingPlan:
    """Return what a run would do. The tokenizer and the model's configuration are read, no weights; nothing is written.

    Args:
        request: As for training.

    Raises:
        UserError: What is given is wrong, as far as that can be known without the model's weights.
    """
    check_engine(request.config.engine if request.engine is None else request.engine, 1)
    check_before_loading(request)
    tokenizer = open_tokenizer(request.model)
    codec_alone = cast(Engine, tokenizer)  # what writes rows needs no more of an engine
    behaviors = [_with_limit(request, tokenizer, behavior) for behavior in request.behaviors]
    training_set = TrainingSet(behaviors, dev_share=request.config.dev_share)
    retained = [_with_limit(request, tokenizer, behavior) for behavior in request.retained]
    rows, prompts = _given_rows(request, codec_alone, training_set, retained)
    if rows is not None:
        limit, reason = request.config.max_length or tokenizer.context, "what the model reads, or max_length"
        rows = list(LengthLimit(limit=limit, reason=f"which is {reason}", too_long=request.config.too_long).fit(rows))
    rate = None if tokenizer.width is None else request.config.learning_rate_for(tokenizer.width)
    num_steps = _num_steps(request.config, rows, request.stage)
    sampled = list(_sampled(request, training_set, prompts, rows, retained))
    plan = TrainingPlan(
        lines=(),
        learning_rate=rate,
        num_rows=None if rows is None else len(rows),
        num_steps=num_steps,
        trained_tokens=_trained_tokens(request.config, rows, num_steps),
        generated_tokens=sum(tokens for _, tokens in sampled),
    )
    lines = _lines(request, training_set, rows, prompts, [words for words, _ in sampled], plan)
    return replace(plan, lines=tuple(lines))


def _with_limit(request: TrainRequest, tokenizer: TokenizerOnly, behavior: Behavior) -> Behavior:
    """Return a behavior as the model's template writes it, with the limit of its samples."""
    behavior = follow_template(behavior, tokenizer.codec)
    if request.from_run:
        behavior = recorded_limit(behavior, RunDirectory(Path(request.from_run)).read_json())
    room = min(request.config.max_length or MOST_THOUGHT, tokenizer.context or MOST_THOUGHT)
    return limit_without_pilot(cast(Engine, tokenizer), behavior, room)


def _given_rows(
    request: TrainRequest, engine: Engine, training_set: TrainingSet, retained: Sequence[Behavior]
) -> tuple[Sequence[TrainingRow] | None, Sequence[TrainingProblem]]:
    """Return the rows that are there before anything is sampled, None where all are sampled; and prompts alone."""
    if request.data:
        data = read_data(request.data, engine, [*training_set.behaviors.values(), *retained], RECIPES[request.stage].reads)
        refuse_unread(RECIPES[request.stage], data.rows, data.prompts)
        return (data.rows if data.rows else None), data.prompts
    if request.from_run:
        rows = read_run(request.from_run, engine, training_set)
        refuse_unread(RECIPES[request.stage], rows, ())
        return rows, ()
    if isinstance(request.config, ReferenceConfig):
        return encode_references(engine, training_set.train, request.config.max_references), ()
    return None, ()


def _num_steps(config: TrainingConfig, rows: Sequence[TrainingRow] | None, stage: str) -> int | None:
    if config.num_steps is not None or rows is None or not isinstance(config, EpochConfig):
        return config.num_steps
    if Material.SAMPLES in materials(rows, ()):  # which of them are learned from, the stage decides
        return None
    paired = isinstance(config, PairConfig) and Material.PAIRS in materials(rows, ()) and stage != "kto"
    items = len(rows) // (2 if paired else 1)
    return EpochOrder(items, min(config.rows_per_batch, items), config.seed, config.num_epochs).num_batches() if items else None


def _trained_tokens(config: TrainingConfig, rows: Sequence[TrainingRow] | None, num_steps: int | None) -> int | None:
    """Return the tokens of the answers of all steps over rows that are there; sampled ones are not known."""
    if not rows or num_steps is None or not isinstance(config, EpochConfig) or isinstance(config, StudentConfig):
        return None
    total = sum(len(row.completion_ids) for row in rows)
    if config.num_steps is None:
        return math.ceil(total * config.num_epochs)
    paired = isinstance(config, PairConfig) and Material.PAIRS in materials(rows, ())
    return math.ceil(total / len(rows) * config.num_steps * min(len(rows), config.rows_per_batch * (2 if paired else 1)))


def _sampled(
    request: TrainRequest,
    training_set: TrainingSet,
    prompts: Sequence[TrainingProblem],
    rows: Sequence[TrainingRow] | None,
    retained: Sequence[Behavior],
) -> Iterator[tuple[str, int]]:
    """Yield what is sampled, in words and in tokens at most."""
    config = request.config
    problems = list(prompts) or list(training_set.train)
    longest = max(item.behavior.sampling.max_tokens for item in problems)
    if isinstance(config, RolloutConfig | StudentConfig):
        share = config.on_policy if isinstance(config, StudentConfig) else 1.0
        if share > 0:
            num = math.ceil(config.num_steps * share) * min(config.problems_per_batch, len(problems)) * config.group_size
            yield f"{num:,} samples of the model in training, {config.group_size} of each prompt in a batch", num * longest
    elif rows is None and (each := getattr(config, "num_samples", 0)):
        yield f"{each * len(problems):,} samples before training, {each} of each problem", each * len(problems) * longest
    if config.eval_every is not None and training_set.dev:
        num = config.eval_samples * len(training_set.dev)
        limit = max(item.behavior.sampling.max_tokens for item in training_set.dev)
        times = 1 + (config.num_steps or 0) // config.eval_every
        yield f"{num:,} samples of the development slice, at least {times} times", num * limit * times
    for behavior in retained:
        num = config.retain_samples * min(config.retain_problems, len(behavior.split(Split.TRAIN)))
        yield (
            f"{num:,} samples of {behavior.name}, which is retained: right ones are {config.retain_share:g} of every batch",
            num * behavior.sampling.max_tokens,
        )
    if chosen_by_dev(request.retained, config):
        yield "answers to the development slices, by which the saved weights are chosen; their tokens are not counted below", 0


def _lines(
    request: TrainRequest,
    training_set: TrainingSet,
    rows: Sequence[TrainingRow] | None,
    prompts: Sequence[TrainingProblem],
    sampled: Sequence[str],
    plan: TrainingPlan,
) -> Iterator[str]:
    yield f"{request.stage} on {request.model}, {STAGES[request.stage].provenance.value.replace('_', '-')}: nothing is loaded or written"
    for behavior in training_set.behaviors.values():
        counts = {split: len(behavior.split(split)) for split in Split}
        dev = sum(item.behavior.name == behavior.name for item in training_set.dev)
        limit = describe_limit(behavior.sampling.max_tokens, behavior.limit_source)
        yield (
            f"{behavior.name}: {counts[Split.TRAIN]} train problems ({dev} of them kept for development), {counts[Split.EVAL]} eval and "
            f"{counts[Split.FINAL]} final, which are not trained on; a sample may have {limit}"
        )
    if RECIPES[request.stage].transform is not None:
        yield "rows: none, the weights are combined without a step"
        return
    origin = request.data or request.from_run or "the references of the train problems"
    if rows is not None:
        tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
        yield f"rows: {len(rows):,} from {origin}, {tokens:,} tokens"
    elif prompts:
        yield f"rows: {len(prompts):,} prompts from {origin}, answered in training"
    else:
        yield "rows: sampled; how many are learned from is known then"
    for words in sampled:
        yield f"sampled: {words}"
    steps = "as many as the rows of its epochs make" if plan.num_steps is None else f"{plan.num_steps:,}"
    rate = "" if plan.learning_rate is None else f", learning rate {plan.learning_rate:g}"
    yield f"steps: {steps}{rate}"
    trained = "" if plan.trained_tokens is None else f"about {plan.trained_tokens:,} of answers trained on, "
    yield f"tokens: {trained}at most {plan.generated_tokens:,} generated"
    settings = ", ".join(f"{key}={value}" for key, value in request.config.model_dump(mode="json").items())
    yield f"settings: {settings}"
