"""The one loop. It asks the source for a batch, lets the credit fill in advantages, takes optimizer steps, logs, and saves.

It knows no algorithm: what tells methods apart lies in the stage (source × credit × terms × reduction).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import NonFiniteError, SettingsError
from posttrain.trainers.allocator import keep_large_blocks
from posttrain.trainers.checkpoint import save_checkpoint
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.evaluation import Evaluate
from posttrain.trainers.logprobs import find_shortcuts
from posttrain.trainers.optimization import learning_rate_at, make_optimizer
from posttrain.trainers.parallel import current
from posttrain.trainers.precision import compute_dtype
from posttrain.trainers.recipes import find_recipe
from posttrain.trainers.scoring import Scorer
from posttrain.trainers.stage import OtherModel, Stage, StageInputs
from posttrain.trainers.training_log import TrainingLog
from posttrain.trainers.training_step import StepOutcome, Stepper, StepStatus
from posttrain.trainers.types import Batch, GradeFn, OnStep, TrainingRow, TrainingSet


class Ending(StrEnum):
    """Why training ended."""

    FINISHED = "finished"
    STOPPED_EARLY = "stopped_early"
    """The dev slice did not get better for `patience` looks."""
    NOTHING_TO_LEARN = "nothing_to_learn"
    """The source had no rows, or no batch had a signal: the weights are those of the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """What a training run did and where it left it."""

    recipe: str
    ending: Ending
    num_steps: int
    """Optimizer steps taken."""
    num_skipped: int
    """Batches without signal, on which no step was taken."""
    trained_tokens: int
    """Completion tokens that ran backward, over all steps."""
    input_tokens: int
    """Tokens that ran through the model for training."""
    generated_tokens: int
    """Tokens sampled for training, the dev slice not counted."""
    seconds: float
    log: Path
    """JSONL, one object per step."""
    checkpoint: Path
    """A Hugging Face model folder: the best one by the dev slice where that was looked at, else the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What a stage may be given beside the model and the problems."""

    data: Sequence[TrainingRow] = ()
    teacher: OtherModel | None = None
    earlier: OtherModel | None = None
    fingerprint: str = ""
    """Of the model in training; a teacher with the same one is refused."""


def run_recipe(
    recipe_name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    engine: Engine,
    training_set: TrainingSet,
    grade: GradeFn | Mapping[str, GradeFn] | None,
    config: TrainingConfig,
    *,
    out: Path,
    beside: Beside | None = None,
    on_step: OnStep | None = None,
    evaluate: Evaluate | None = None,
) -> TrainingResult:
    """Train a model in place.

    Args:
        recipe_name: A key of `RECIPES`.
        model: With float32 weights (see `load_for_training`); changed in place, put into eval mode (dropout off).
        tokenizer: Stored with the checkpoint.
        engine: Encodes prompts and paths, and for on-policy stages samples the live model (one of several processes: `parallel.Processes.sampling`).
        training_set: The problems.
        grade: Grades texts: one function for all behaviors, or one per behavior's name; None where the recipe needs no verifier.
        config: Of the recipe's config class.
        out: Folder for `training_log.jsonl` and `checkpoint/`.
        beside: Data, a teacher, an earlier checkpoint, where there are any.
        on_step: Called with every logged object.
        evaluate: Scores the model on the dev slice every `config.eval_every` steps, higher is better (see `evaluation`).

    Raises:
        SettingsError: Unknown recipe, config of another recipe, no verifier where one is needed, `eval_every` without `evaluate`.
        NonFiniteError: A loss or gradient was NaN or infinite. The log says where; the weights are those before that step.
        MeasuredProblemError: The source gave a row that may not be trained on.
        KeyboardInterrupt: Passed on, after the steps so far were saved to `checkpoint/`.
    """
    recipe = find_recipe(recipe_name)
    if type(config) is not recipe.config:
        raise SettingsError(
            f"{recipe_name} takes a {recipe.config.__name__}, got a {type(config).__name__}; use load_config({recipe_name!r})"
        )
    if grade is None and recipe.needs_verifier:
        raise SettingsError(f"{recipe_name} needs a verifier and none was given; without one, use sft")
    if config.eval_every is not None and evaluate is None:
        raise SettingsError("eval_every is set and nothing to evaluate with was given; pass evaluate, or leave eval_every out")
    graders = grade if isinstance(grade, Mapping) else {} if grade is None else dict.fromkeys(training_set.behaviors, grade)
    if model.device.type == "cpu":
        keep_large_blocks()
    model.eval()  # dropout would make π_old differ from π, and a sampler has none
    beside = beside or Beside()
    inputs = StageInputs(
        engine=engine,
        training_set=training_set,
        graders=graders,
        model=model,
        tokenizer=tokenizer,
        fingerprint=beside.fingerprint,
        data=tuple(beside.data),
        teacher=beside.teacher,
        earlier=beside.earlier,
    )
    training_set.admit_rows(beside.data)
    stage = recipe.build(inputs, config)
    stepper = make_stepper(stage, inputs, config)

    processes = current()

    def save(folder: str, num_steps: int) -> None:
        whole = processes.whole(model)
        head = None if stage.scalar_head is None else processes.whole(stage.scalar_head)
        if processes.is_first:
            save_checkpoint(
                out / folder,
                whole,
                tokenizer,
                recipe=recipe,
                config=config,
                training_set=training_set,
                num_steps=num_steps,
                scalar_head=head,
            )
        processes.gather(None)  # the others wait here, where there is no limit to it

    with TrainingLog(out / "training_log.jsonl", on_step) as log:
        run = _Run(stage=stage, stepper=stepper, training_set=training_set, config=config, log=log, evaluate=evaluate)
        try:
            for step in run.steps():
                if run.got_best(step):
                    save("checkpoint", run.num_steps)
                if config.save_every is not None and (step + 1) % config.save_every == 0:
                    save(f"checkpoint-{step + 1}", run.num_steps)
        except KeyboardInterrupt:
            if run.num_steps and not run.best_is_saved and processes.size == 1:  # others may have been stopped elsewhere
                save("checkpoint", run.num_steps)
            raise
        if not run.best_is_saved:
            save("checkpoint", run.num_steps)
    return TrainingResult(
        recipe=recipe_name,
        ending=run.ending if run.num_steps else Ending.NOTHING_TO_LEARN,
        num_steps=run.num_steps,
        num_skipped=run.num_skipped,
        trained_tokens=run.trained_tokens,
        input_tokens=run.input_tokens,
        generated_tokens=run.generated_tokens,
        seconds=time.monotonic() - run.started,
        log=log.path,
        checkpoint=out / "checkpoint",
    )


def make_stepper(stage: Stage, inputs: StageInputs, config: TrainingConfig) -> Stepper:
    """What takes the steps of a stage on `inputs.model`."""
    model, processes = inputs.model, current()
    assert model is not None
    other = inputs.teacher or inputs.earlier
    scorer = Scorer.for_stage(
        model,
        stage,
        processes.usable(find_shortcuts(model, share_prefixes=config.share_prefixes)),
        compute_dtype(processes.trains_on(model), config.autocast),
        teacher=None if other is None or stage.teaches_itself else other.model,
    )
    if stage.transform is None:
        for module in scorer.own_modules:
            processes.shard(module)
    return Stepper(
        model=model,
        optimizer=make_optimizer(model, config, stage.scalar_head),
        scorer=scorer,
        components=stage.components,
        config=config,
    )


@dataclass(kw_only=True, slots=True)
class _Run:
    """The state of a run, and its steps."""

    stage: Stage
    stepper: Stepper
    training_set: TrainingSet
    config: TrainingConfig
    log: TrainingLog
    evaluate: Evaluate | None
    started: float = field(default_factory=time.monotonic)
    ending: Ending = Ending.FINISHED
    num_steps: int = 0
    num_skipped: int = 0
    trained_tokens: int = 0
    input_tokens: int = 0
    generated_tokens: int = 0
    best_score: float = -math.inf
    best_is_saved: bool = False
    _looks_without_gain: int = 0

    def steps(self) -> Iterator[int]:
        """Train on one batch after the other; gives the number of each after it is done."""
        num_batches, metrics = self.stage.source.prepare()
        if self.stage.transform is not None:
            metrics = {**metrics, **self.stage.transform()}
            self.num_steps = 1
        self.generated_tokens += int(metrics.get("generated_tokens", 0))
        self.log.write({"event": "prepared", "num_batches": num_batches, "seconds": time.monotonic() - self.started, **metrics})
        for step in range(num_batches):
            begun = time.monotonic()
            batch = self.stage.source.batch(step)
            self.training_set.require_train(batch.rows)
            self.generated_tokens += int(batch.metrics.get("generated_tokens", 0))
            sampled = time.monotonic()
            outcome, learning_rate, credit_metrics = self._train(batch, step, num_batches)
            record = {
                "event": "step",
                "step": step,
                "status": outcome.status.value,
                "loss": outcome.loss,
                "grad_norm": outcome.grad_norm,
                "learning_rate": learning_rate,
                "tokens": outcome.trained_tokens,
                "input_tokens": outcome.input_tokens,
                "skipped": self.num_skipped,
                "seconds": time.monotonic() - begun,
                "source_seconds": sampled - begun,
                **batch.metrics,
                **credit_metrics,
                **outcome.metrics,
            }
            self.log.write(record)
            if outcome.status is StepStatus.NON_FINITE:
                raise NonFiniteError(
                    f"loss {outcome.loss:.3g} and gradient norm {outcome.grad_norm:.3g} at step {step}; the weights are as "
                    "before it. "
                    "Lower learning_rate, or set autocast=float32"
                )
            yield step
            if self.ending is Ending.STOPPED_EARLY:
                return

    def _train(self, batch: Batch, step: int, num_batches: int) -> tuple[StepOutcome, float, Mapping[str, float]]:
        """The optimizer steps of one batch: the last outcome with tokens summed, and the learning rate."""
        rows, metrics = self.stage.credit.assign(batch.rows, self.stepper.scorer.look)
        learning_rate = learning_rate_at(step, num_batches, self.config)
        if getattr(self.config, "signal_scaled", False):
            learning_rate *= self.stepper.share_with_signal(rows, step)
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = learning_rate
        old: dict[int, Tensor] = {}
        trained = inputs = 0
        outcome = StepOutcome(status=StepStatus.NO_SIGNAL)
        for _ in range(batch.num_updates):
            outcome = self.stepper.step(rows, old, step)
            if outcome.status is not StepStatus.UPDATED:
                break
            self.num_steps += 1
            trained += outcome.trained_tokens
            inputs += outcome.input_tokens
        self.num_skipped += outcome.status is StepStatus.NO_SIGNAL
        self.trained_tokens += trained
        self.input_tokens += inputs
        return replace(outcome, trained_tokens=trained, input_tokens=inputs), learning_rate, metrics

    def got_best(self, step: int) -> bool:
        """Look at the dev slice when it is time; whether the model is better than at every earlier look."""
        if self.evaluate is None or self.config.eval_every is None or (step + 1) % self.config.eval_every:
            return False
        score = current().first(self.evaluate())
        better = score > self.best_score
        self.log.write({"event": "dev", "step": step, "dev_score": score, "best": max(score, self.best_score)})
        if better:
            self.best_score, self.best_is_saved, self._looks_without_gain = score, True, 0
        else:
            self._looks_without_gain += 1
            if self.config.patience is not None and self._looks_without_gain >= self.config.patience:
                self.ending = Ending.STOPPED_EARLY
        return better
