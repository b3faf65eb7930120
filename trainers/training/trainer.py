"""The one loop. It asks the source for a batch, lets the credit fill in advantages, takes optimizer steps, logs, and saves.

It knows no algorithm: what tells methods apart lies in the stage (source × credit × terms × reduction).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import NonFiniteError, RunError, SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.interrupts import StoppedAtOnceError, held_interrupts, noted_interrupts
from posttrain.trainers.distributed.processes import GatheringEngine, current
from posttrain.trainers.models.checkpoint import save_checkpoint
from posttrain.trainers.models.ema import EmaWeights
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.registry import build_stage, find_recipe
from posttrain.trainers.row_json import fingerprint_rows
from posttrain.trainers.stage import FrozenModel, Stage, Stateful, TrainingInputs
from posttrain.trainers.step.forward_scores import Scorer
from posttrain.trainers.step.gradient_checkpointing import enable_gradient_checkpointing
from posttrain.trainers.step.logprobs import find_shortcuts
from posttrain.trainers.step.optimizer import learning_rate_at, make_optimizer
from posttrain.trainers.step.optimizer_step import StepOutcome, Stepper, StepStatus
from posttrain.trainers.step.precision import compute_dtype
from posttrain.trainers.training.dev_evaluation import DevEvaluation, Evaluate
from posttrain.trainers.training.memory import model_state_gigabytes
from posttrain.trainers.training.resume_state import (
    StoredTensors,
    find_state,
    read_state,
    remove_states,
    restore_tensors,
    trained_tensors,
    write_state,
)
from posttrain.trainers.training.training_log import TrainingLog
from posttrain.trainers.training_types import Batch, GradeFn, OnStep, TrainingProblem, TrainingRow, TrainingSet


class Ending(StrEnum):
    """Why training ended."""

    FINISHED = "finished"
    STOPPED_EARLY = "stopped_early"
    """The dev slice did not get better for `patience` looks."""
    TARGET_MET = "target_met"
    """pass@1 on the dev slice reached `target`."""
    ATTRITION = "attrition"
    """pass@1 on the dev slice fell by more than `max_dev_loss` below what it was before the first step."""
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
    """A Hugging Face model folder: the best one by the dev slice where that was looked at after a step, else the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beside:
    """What a stage may be given beside the model and the problems."""

    data: Sequence[TrainingRow] = ()
    prompts: Sequence[TrainingProblem] = ()
    teacher: FrozenModel | None = None
    earlier: FrozenModel | None = None
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
    adapter: LoraAdapter | None = None,
    on_step: OnStep | None = None,
    evaluate: Evaluate | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a model in place. In a folder with the state of a stopped run of the same settings, go on as if it had never stopped.

    Args:
        recipe_name: A key of `RECIPES`.
        model: With float32 weights (see `load_for_training`), those of the start even where a run is resumed; changed in place, put into
            eval mode (dropout off).
        tokenizer: Stored with the checkpoint.
        engine: Encodes prompts and paths, and for on-policy stages samples the live model (one of several processes: `parallel.ProcessGroup.sampling`).
        training_set: The problems.
        grade: Grades texts: one function for all behaviors, or one per behavior's name; None where the recipe needs no verifier.
        config: Of the recipe's config class.
        out: Folder for `training_log.jsonl`, `checkpoint/` and, while the run is not finished, its state.
        beside: Data, a teacher, an earlier checkpoint, where there are any.
        adapter: Of the model, where `config.lora_rank` is set.
        on_step: Called with every logged object; where it raises in one of several processes, it must in all of them.
        evaluate: Looks at the dev slice every `config.eval_every` steps (see `evaluation`).
        say: Called with a line for people before training starts.

    Raises:
        SettingsError: Unknown recipe, config of another recipe, an input that the stage needs is missing, settings that contradict each other.
        BehaviorError: What was given beside the model is nothing that this stage learns from.
        RunError: The folder holds the state of a run with other settings; or states are asked for, and not all processes see it.
        NonFiniteError: A loss or gradient was NaN or infinite. The log says where; the weights are those before that step.
        MeasuredProblemError: The source gave a row that may not be trained on.
        KeyboardInterrupt: Passed on, after the state and, in `checkpoint/`, the steps so far were saved.
    """
    recipe = find_recipe(recipe_name)
    if type(config) is not recipe.config:
        raise SettingsError(
            f"{recipe_name} takes a {recipe.config.__name__}, got a {type(config).__name__}; use load_config({recipe_name!r})"
        )
    _refuse_contradictions(config, evaluate, adapter)
    graders = grade if isinstance(grade, Mapping) else {} if grade is None else dict.fromkeys(training_set.behaviors, grade)
    model.eval()  # dropout would make π_old differ from π, and a sampler has none
    beside = beside or Beside()
    identity = _identity(recipe_name, config, training_set, beside)
    processes = current()
    keeps_states = _all_see(out)
    if config.save_every is not None and not keeps_states:
        raise RunError(
            f"save_every: not all of {processes.size} processes see {processes.broadcast(out.resolve())}, where each leaves its part of a state; "
            "give an --out on a disk that all machines share, or leave save_every out"
        )
    found = processes.broadcast(find_state(out.resolve()))
    state = None if found is None else read_state(found, identity)
    inputs = TrainingInputs(
        engine=engine,
        training_set=training_set,
        graders=graders,
        model=model,
        tokenizer=tokenizer,
        fingerprint=beside.fingerprint,
        data=tuple(beside.data),
        prompts=tuple(beside.prompts),
        teacher=beside.teacher,
        earlier=beside.earlier,
    )
    training_set.admit_rows(beside.data, beside.prompts)
    stage = build_stage(recipe, inputs, config)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    stepper = make_stepper(stage, inputs, config, adapter)
    if say is not None:
        say(_plan(stepper, inputs, adapter))

    def save(folder: str, run: _Run, looks: Sequence[DevEvaluation]) -> None:
        with run.averaged():
            whole = processes.gather_module(model) if adapter is None else adapter.merge()
            save_adapter = None if adapter is None else partial(adapter.save, addends=adapter.addends())
            head = None if stage.scalar_head is None else processes.gather_module(stage.scalar_head)
            if processes.is_rank_zero:
                save_checkpoint(
                    out / folder,
                    whole,
                    tokenizer,
                    recipe=recipe,
                    config=config,
                    training_set=training_set,
                    num_steps=run.num_steps,
                    scalar_head=head,
                    save_adapter=save_adapter,
                    looks=looks,
                )
            processes.all_gather(None)  # the others wait here, where there is no limit to it

    with TrainingLog(
        out / "training_log.jsonl", on_step, keep=state["log_bytes"] if state and processes.is_rank_zero else 0
    ) as log:
        run = _Run(
            stage=stage,
            stepper=stepper,
            training_set=training_set,
            config=config,
            log=log,
            evaluate=evaluate,
            save=save,
            out=out,
            identity=identity,
            keeps_states=keeps_states,
        )
        try:
            run.go(state, None if found is None else StoredTensors(found))
        except StoppedAtOnceError:
            raise
        except KeyboardInterrupt:
            run.keep()
            if run.num_steps and run.is_whole and run.keeps_states and not run.best_is_saved:
                save("checkpoint", run, run.looks_at_this)
            raise
        if not run.best_is_saved:
            save("checkpoint", run, run.looks_at_this)
    if processes.is_rank_zero:
        remove_states(out)
    return TrainingResult(
        recipe=recipe_name,
        ending=run.ending if run.num_steps or run.ending is Ending.TARGET_MET else Ending.NOTHING_TO_LEARN,
        num_steps=run.num_steps,
        num_skipped=run.num_skipped,
        trained_tokens=run.trained_tokens,
        input_tokens=run.input_tokens,
        generated_tokens=run.generated_tokens,
        seconds=run.seconds,
        log=log.path,
        checkpoint=out / "checkpoint",
    )


def _all_see(folder: Path) -> bool:
    """Whether the folder of the first process is there for all of them."""
    processes = current()
    if processes.size == 1:
        return True
    folder.mkdir(parents=True, exist_ok=True)
    return all(processes.all_gather(processes.broadcast(folder.resolve()).is_dir()))


def _refuse_contradictions(config: TrainingConfig, evaluate: Evaluate | None, adapter: LoraAdapter | None) -> None:
    if config.eval_every is not None and evaluate is None:
        raise SettingsError("eval_every is set and nothing to evaluate with was given; pass evaluate, or leave eval_every out")
    for name in ("target", "max_dev_loss"):
        if getattr(config, name) is not None and config.eval_every is None:
            raise SettingsError(
                f"{name} speaks of looks at the dev slice, and eval_every is not set; set it, or leave {name} out"
            )
    if (config.lora_rank is None) != (adapter is None):
        raise SettingsError(
            f"lora_rank is {config.lora_rank} and {'no' if adapter is None else 'an'} adapter was given; give both (see LoraAdapter) or neither"
        )


def _identity(recipe_name: str, config: TrainingConfig, training_set: TrainingSet, beside: Beside) -> dict[str, Any]:
    """Settings and fingerprints that a resumed run must share."""
    return {
        "stage": recipe_name,
        "model": beside.fingerprint,
        "behaviors": {name: behavior.fingerprint for name, behavior in training_set.behaviors.items()},
        "data": fingerprint_rows(beside.data),
        "teacher": None if beside.teacher is None else beside.teacher.fingerprint,
        "earlier": None if beside.earlier is None else beside.earlier.fingerprint,
        **config.model_dump(mode="json"),
    }


def _plan(stepper: Stepper, inputs: TrainingInputs, adapter: LoraAdapter | None) -> str:
    """What is trained and how much memory it takes, in one line."""
    scorer, others = stepper.scorer, [one for one in (inputs.teacher, inputs.earlier) if one is not None]
    frozen = [each.model for each in (scorer.reference, scorer.teacher) if each is not None]
    merged = None if adapter is None else adapter.merged
    sampled = inputs.engine.sampled if isinstance(inputs.engine, GatheringEngine) else None
    models: list[nn.Module] = [stepper.model, *frozen, *(one.model for one in others)]
    models += [each for each in (scorer.scalar_head, merged, sampled) if each is not None]
    held = model_state_gigabytes(
        models,
        stepper.optimizer,
        [inputs.engine, *(one.engine for one in others)],
        averaged=stepper.config.ema_decay is not None,
    )
    every = sum(each.numel() for each in stepper.model.parameters())
    trained = sum(each.numel() for group in stepper.optimizer.param_groups for each in group["params"])
    share = (
        f"{trained / 1e6:,.3g} M of {every / 1e6:,.3g} M weights are trained" if adapter else f"{trained / 1e6:,.3g} M weights"
    )
    each = "" if current().size == 1 else f" in each of {current().size} processes"
    return (
        f"{share}, about {held:.1f} GB and activations{each}; {len(inputs.training_set.train)} train problems, "
        f"{len(inputs.training_set.dev)} kept for development"
    )


def make_stepper(stage: Stage, inputs: TrainingInputs, config: TrainingConfig, adapter: LoraAdapter | None = None) -> Stepper:
    """What takes the steps of a stage on `inputs.model`, which has this adapter where it has one."""
    model, processes = inputs.model, current()
    assert model is not None
    other = inputs.teacher or inputs.earlier
    shortcuts = find_shortcuts(model, share_prefixes=config.share_prefixes)
    scorer = Scorer.for_stage(
        model,
        stage,
        shortcuts,
        compute_dtype(processes.train_device(model), config.autocast),
        teacher=None if other is None or stage.teaches_itself else other.model,
        bare=None if adapter is None else adapter.off,
        keep_reference=config.eval_every is not None,
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


_COUNTERS = (
    "next_step",
    "num_steps",
    "num_skipped",
    "trained_tokens",
    "input_tokens",
    "generated_tokens",
    "best_is_saved",
    "looks_without_gain",
    "looked_at",
)
_NEVER, _BEFORE = -2, -1
"""In place of the number of a step: no look yet, the look before step 0."""


@dataclass(kw_only=True, slots=True)
class _Run:
    """The state of a run, and its steps. What a step or a look changes is changed as a whole, so that a stop falls between two of them."""

    stage: Stage
    stepper: Stepper
    training_set: TrainingSet
    config: TrainingConfig
    log: TrainingLog
    evaluate: Evaluate | None
    save: Callable[[str, _Run, Sequence[DevEvaluation]], None]
    out: Path
    identity: Mapping[str, Any]
    keeps_states: bool
    """Whether there is a folder for them that all processes see."""
    ending: Ending = Ending.FINISHED
    next_step: int = 0
    num_steps: int = 0
    num_skipped: int = 0
    trained_tokens: int = 0
    input_tokens: int = 0
    generated_tokens: int = 0
    best_score: float = -math.inf
    best_is_saved: bool = False
    looks_without_gain: int = 0
    looked_at: int = _NEVER
    """The step after which the dev slice was looked at last."""
    looks: tuple[DevEvaluation, ...] = ()
    """Before the first step; and the last one where there was another."""
    is_whole: bool = True
    """Whether the weights are those after a whole number of batches."""
    _average: EmaWeights | None = None
    _memory: Mapping[str, Any] = field(default_factory=dict)
    """What the source knew after the last whole step."""
    _log_bytes: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _seconds_before: float = 0.0

    @property
    def seconds(self) -> float:
        """Spent on this run, by all processes that worked on it."""
        return self._seconds_before + time.monotonic() - self._begun

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the model is what is looked at and saved."""
        return nullcontext() if self._average is None else self._average.in_place()

    @property
    def looks_at_this(self) -> tuple[DevEvaluation, ...]:
        """The look before the first step, and the one at the weights as they are, where there were such looks."""
        return self.looks if self.looked_at == self.next_step - 1 else self.looks[:1]

    def go(self, state: Mapping[str, Any] | None, tensors: StoredTensors | None) -> None:
        """Prepare from the start's weights, restore what a stopped run had, and train on one batch after the other.

        A Ctrl-C takes effect at once, but in several processes only after a step, which all of them finish.
        """
        with nullcontext(lambda: False) if current().size == 1 else noted_interrupts() as is_stopped:
            num_batches = self._prepare(state, tensors)
            while self.next_step < num_batches and self.ending is Ending.FINISHED:
                if any(current().all_gather(is_stopped())):
                    raise KeyboardInterrupt
                self._step(self.next_step, num_batches)
                self._after_step(self.next_step - 1)

    def _prepare(self, state: Mapping[str, Any] | None, tensors: StoredTensors | None) -> int:
        """Everything before the next step; how many batches there are."""
        num_batches, metrics = self.stage.source.prepare()
        if self.config.ema_decay is not None and self.stage.transform is None:
            trained = [each for group in self.stepper.optimizer.param_groups for each in group["params"]]
            self._average = EmaWeights(trained, self.config.ema_decay)
        if state is None or tensors is None:
            self.generated_tokens += int(metrics.get("generated_tokens", 0))
            self.log.write({"event": "prepared", "num_batches": num_batches, "seconds": self.seconds, **metrics})
            self._settle()
            self._look(_BEFORE)
            self._transform()
        else:
            self._restore(state, tensors)
            self.log.write({"event": "resumed", "num_batches": num_batches, "step": self.next_step})
            self._settle()
            self._after_step(self.next_step - 1)  # it may have been stopped right there
        return num_batches

    def _transform(self) -> None:
        """What some stages do in place of steps."""
        if self.stage.transform is not None and self.ending is Ending.FINISHED:
            self.log.write({"event": "transformed", **self.stage.transform()})
            self.num_steps = 1
            self._look(0)

    def _step(self, step: int, num_batches: int) -> None:
        begun = time.monotonic()
        batch = self.stage.source.batch(step)
        self.training_set.require_train(batch.rows)
        sampled = time.monotonic()
        rows, credit_metrics = self.stage.credit.assign(batch.rows, self.stepper.scorer.look)
        with held_interrupts():
            outcome, learning_rate = self._train(replace(batch, rows=rows), step, num_batches)
            self.generated_tokens += int(batch.metrics.get("generated_tokens", 0))
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
            self.log.add(record)
            if outcome.status is not StepStatus.NON_FINITE:
                self.next_step, self.is_whole = step + 1, True
                self._settle()
        self.log.tell(record)
        if outcome.status is StepStatus.NON_FINITE:
            raise NonFiniteError(
                f"loss {outcome.loss:.3g} and gradient norm {outcome.grad_norm:.3g} at step {step}; the weights are as "
                "before it. "
                "Lower learning_rate, or set autocast=float32"
            )

    def _train(self, batch: Batch, step: int, num_batches: int) -> tuple[StepOutcome, float]:
        """The optimizer steps of one batch: the last outcome with tokens summed, and the learning rate."""
        learning_rate = learning_rate_at(step, num_batches, self.config)
        if getattr(self.config, "signal_scaled", False):
            learning_rate *= self.stepper.share_with_signal(batch.rows, step)
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = learning_rate
        old: dict[int, Tensor] = {}
        trained = inputs = 0
        outcome = StepOutcome(status=StepStatus.NO_SIGNAL)
        for _ in range(batch.num_updates):
            outcome = self.stepper.step(batch.rows, old, step)
            if outcome.status is not StepStatus.UPDATED:
                break
            self.is_whole = False
            if self._average is not None:
                self._average.update()
            self.num_steps += 1
            trained += outcome.trained_tokens
            inputs += outcome.input_tokens
        self.num_skipped += outcome.status is StepStatus.NO_SIGNAL
        self.trained_tokens += trained
        self.input_tokens += inputs
        return replace(outcome, trained_tokens=trained, input_tokens=inputs), learning_rate

    def _after_step(self, step: int) -> None:
        """Look, and save, when it is time."""
        if self.config.eval_every is not None and (step + 1) % self.config.eval_every == 0:
            self._look(step)
        if self.config.save_every is not None and (step + 1) % self.config.save_every == 0:
            with held_interrupts():
                self.save(f"checkpoint-{step + 1}", self, self.looks_at_this)
                self.keep()

    def _look(self, step: int) -> None:
        """Look at the dev slice: save what is better than at every earlier look after a step, and see whether that is enough."""
        if self.evaluate is None or self.config.eval_every is None or self.looked_at >= step:
            return
        with self.averaged():
            look = current().broadcast(self.evaluate(self.stepper.scorer))
        better = step != _BEFORE and look.score > self.best_score
        with held_interrupts():
            self.looks = (*self.looks[:1], look)
            if better:
                self.save("checkpoint", self, self.looks)
                self.best_score, self.best_is_saved, self.looks_without_gain = look.score, True, 0
            elif step != _BEFORE:
                self.looks_without_gain += 1
            best = {"best": self.best_score} if step != _BEFORE else {}
            record = {"event": "dev", "step": step, "dev_score": look.score, **best, **look.metrics}
            self.log.add(record)
            self.looked_at = step
            self._settle()
        self.ending = self._ending_of(look)
        self.log.tell(record)

    def _ending_of(self, look: DevEvaluation) -> Ending:
        """Whether a look ends the run."""
        config, passed, before = self.config, look.pass_at_1, self.looks[0].pass_at_1
        if passed is None or before is None:
            wanted = [name for name in ("target", "max_dev_loss") if getattr(config, name) is not None]
            if wanted:
                raise SettingsError(f"{wanted[0]} speaks of pass@1 on the dev slice, and no verifier grades it; leave it out")
        elif config.target is not None and passed >= config.target:
            return Ending.TARGET_MET
        elif config.max_dev_loss is not None and before - passed > config.max_dev_loss:
            return Ending.ATTRITION
        if config.patience is not None and self.looks_without_gain >= config.patience:
            return Ending.STOPPED_EARLY
        return Ending.FINISHED

    # ------------------------------------------------------------------------------------------------------------ resumption

    def _settle(self) -> None:
        """Mark what is done and logged as what a stopped run goes on from."""
        self._log_bytes = self.log.size
        source = self.stage.source
        self._memory = source.state() if isinstance(source, Stateful) else {}

    def keep(self) -> None:
        """Write the state, where there is something to go on from."""
        if self.next_step == 0 or not self.is_whole or not self.keeps_states:
            return
        record = {
            **{name: getattr(self, name) for name in _COUNTERS},
            "best_score": None if math.isinf(self.best_score) else self.best_score,
            "looks": [{"score": look.score, "pass_at_1": look.pass_at_1, "metrics": dict(look.metrics)} for look in self.looks],
            "source": self._memory,
            "log_bytes": self._log_bytes,
            "seconds": self.seconds,
        }
        tensors = trained_tensors(self._parts, self.stepper.optimizer, self._average)
        with held_interrupts():
            write_state(self.out, self.next_step, record, tensors, self.identity)

    def _restore(self, state: Mapping[str, Any], tensors: StoredTensors) -> None:
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.best_score = -math.inf if state["best_score"] is None else state["best_score"]
        self.looks = tuple(DevEvaluation(**look) for look in state["looks"])
        self._seconds_before = state["seconds"]
        if isinstance(self.stage.source, Stateful):
            self.stage.source.load(state["source"])
        restore_tensors(tensors, self._parts, self.stepper.optimizer, self._average)
        if self.looks and self.looked_at == self.next_step - 1:
            self.ending = self._ending_of(self.looks[-1])

    @property
    def _parts(self) -> dict[str, nn.Module]:
        head = self.stage.scalar_head
        return {"model": self.stepper.model, **({} if head is None else {"head": head})}
