"""The training loop: the source gives a batch, the credit fills in advantages, the optimizer takes steps, and the loop logs and saves.

It knows no algorithm: what tells methods apart stands in the stage (source × credit × terms × reduction).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import NonFiniteError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.interrupts import StoppedAtOnceError, held_interrupts, interruption, noted_interrupts
from posttrain.trainers.models.ema import EmaWeights
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.models.saved_model import check_saved
from posttrain.trainers.recipes.registry import build_stage, find_recipe
from posttrain.trainers.stage import Stage, Stateful, TrainingInputs
from posttrain.trainers.step.gradient_checkpointing import enable_gradient_checkpointing
from posttrain.trainers.step.optimizer import all_finite, learning_rate_at, trained_parameters
from posttrain.trainers.step.optimizer_step import StepOutcome, Stepper, StepStatus
from posttrain.trainers.training.checkpoint_writer import CheckpointWriter
from posttrain.trainers.training.dev_evaluation import Evaluate
from posttrain.trainers.training.dev_selection import BEFORE, DevSelection
from posttrain.trainers.training.memory import describe_run
from posttrain.trainers.training.movement import Movement, StartScores
from posttrain.trainers.training.preparation import (
    fill_in_learning_rate,
    fit_lengths,
    make_stepper,
    refuse_contradictions,
    run_identity,
)
from posttrain.trainers.training.result import Ending, TrainingResult
from posttrain.trainers.training.resume_state import ResumeStore, StoredState, TrainedTensors, find_state
from posttrain.trainers.training.run_progress import OpenBatch, Progress
from posttrain.trainers.training.training_log import TrainingLog
from posttrain.trainers.training.weight_choice import WeightChoice, WeightChooser, make_chooser
from posttrain.trainers.training_types import OnStep, RowRole


def run_recipe(
    recipe_name: str,
    inputs: TrainingInputs,
    config: TrainingConfig,
    *,
    out: Path,
    adapter: LoraAdapter | None = None,
    on_step: OnStep | None = None,
    evaluate: Evaluate | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> TrainingResult:
    """Train a model in place. In a folder with the state of a stopped run of the same settings, resume it with the same result.

    Args:
        recipe_name: A key of `RECIPES`; one that takes steps.
        inputs: The model with float32 weights (see `load_for_training`), those of the start even where a run is resumed; it is changed in
            place and put into eval mode (dropout off). The engine encodes prompts and paths, and for on-policy stages samples that model.
        config: Of the recipe's config class.
        out: Folder for `training_log.jsonl`, `checkpoint/` and, while the run is not finished, its state.
        adapter: Of the model, where `config.lora_rank` is set.
        on_step: Called with every logged object; where it raises in one of several processes, it must in all of them.
        evaluate: Evaluates on the dev slice every `config.eval_every` steps (see `dev_evaluation`).
        say: Called with a line for people before training starts.

    Raises:
        SettingsError: Unknown recipe, config of another recipe, an input that the stage needs is missing, settings that contradict each other.
        BehaviorError: The stage does not learn from the data that was given.
        ModelError: The model could not be saved, or its checkpoint would give other numbers than the model in training.
        RunError: The folder holds the state of a run with other settings; or states are asked for, and not all processes see it.
        NonFiniteError: A loss or gradient was NaN or infinite, and the weights are those before that step; or a weight was, and nothing
            is saved of it.
        MeasuredProblemError: The source gave a row that may not be trained on.
        BaseException: Whatever is raised within is passed on, after the last whole state and, in `checkpoint/`, its weights were saved; of
            several processes only what all of them raise: KeyboardInterrupt and NonFiniteError.
    """
    recipe, model, processes = find_recipe(recipe_name), inputs.model, inputs.processes
    refuse_contradictions(recipe, config, evaluate, adapter)
    model.eval()  # dropout would make π_old differ from π, and a sampler has none
    store = ResumeStore(out, run_identity(recipe, inputs, config), processes)
    if config.save_every is not None:
        store.require_shared()
    state = store.read()
    config, rate = fill_in_learning_rate(config, model, state)
    inputs = fit_lengths(recipe, inputs, config, evaluated=evaluate is not None)
    inputs.training_set.admit_rows(inputs.data, inputs.prompts)
    stage = build_stage(recipe, inputs, config)
    note = check_saved(model, inputs.tokenizer, recipe.saves, stage.scalar_head)
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    stepper = make_stepper(stage, inputs, config, adapter)
    trained = trained_parameters(stepper.optimizer)
    memory = describe_run(stepper.scorer, inputs, trained, adapter, averaged=config.ema_decay is not None)
    for line in filter(None, (note, memory, rate, *inputs.lengths.notes())):
        say(line)
    average = None if config.ema_decay is None else EmaWeights(trained, config.ema_decay, processes)
    writer = CheckpointWriter(
        out=out, recipe=recipe, config=config, inputs=inputs, adapter=adapter, scalar_head=stage.scalar_head, average=average
    )
    chooser = make_chooser(recipe, inputs, config, trained)
    log_bytes = state.record["log_bytes"] if state is not None and processes.is_rank_zero else 0
    with TrainingLog(out / "training_log.jsonl", on_step, keep=log_bytes) as log:
        loop = TrainingLoop(
            stage=stage,
            stepper=stepper,
            inputs=inputs,
            config=config,
            log=log,
            writer=writer,
            store=store,
            evaluate=evaluate,
            selection=DevSelection(config=config),
            chooser=chooser,
        )
        loop.run(state)
    store.clear()
    result = loop.result(recipe_name, out)
    for line in filter(None, (result.warning, "" if loop.choice is None else loop.choice.words)):
        say(line)
    return result


@dataclass(kw_only=True, slots=True)
class TrainingLoop:
    """A training run; a stop falls between two steps or evaluations, never within the changes that one makes."""

    stage: Stage
    stepper: Stepper
    inputs: TrainingInputs
    config: TrainingConfig
    log: TrainingLog
    writer: CheckpointWriter
    store: ResumeStore
    evaluate: Evaluate | None
    selection: DevSelection
    chooser: WeightChooser | None = None
    """Chooses the weights that are saved in the end; None: the last, or the best by the dev slice."""
    choice: WeightChoice | None = None
    progress: Progress = field(default_factory=Progress)
    ending: Ending = Ending.FINISHED
    _resume_point: Mapping[str, Any] = field(default_factory=dict)
    """What the source knew and how long the log was after the last whole step."""
    _batch: OpenBatch | None = None
    """The batch of the next step, from when it is sampled."""
    _start_scores: StartScores | None = None
    """Of rows of the first batch; None before it, and of a model that is no policy."""
    movement: Movement | None = None
    """From the start to the end; None before that, where no step was taken, and of a model that is no policy."""

    def run(self, state: StoredState | None) -> None:
        """Train to the end, from the start's weights or from a state, and save the checkpoint.

        A Ctrl-C takes effect at once, but in several processes only after a step, which all of them finish. Whatever ends the run before its end,
        the last whole state is kept, and its weights are saved as the checkpoint.
        """
        self.stepper.optimizer.register_step_pre_hook(lambda *_: setattr(self.progress, "is_whole", False))
        try:
            self._train(state)
            self._measure_movement()
            with self._chosen_weights():
                self._save_last()
        except StoppedAtOnceError:
            raise
        except BaseException as error:
            kept = self._keep_what_is_whole(error)
            if isinstance(error, NonFiniteError):
                error.args = (f"{error}; {self._say_kept(kept)}",)
            raise

    def _keep_what_is_whole(self, error: BaseException) -> bool:
        """Save the last whole state and its weights, and return whether there is one; what goes wrong in that is noted in the error."""
        if self.inputs.processes.size > 1 and not isinstance(error, KeyboardInterrupt | NonFiniteError):
            return False  # the other processes do not know of it, and each would have to write its shards
        kept = False
        try:
            self.stepper.optimizer.zero_grad(set_to_none=True)  # memory may be what is lacking
            kept = self._keep_state()
            if kept and self.progress.num_steps:
                self._save_last()
        except Exception as another:
            what = "its weights could" if kept else "the state so far could"
            error.add_note(f"{what} not be saved: {type(another).__name__}: {another}")
        return kept

    def _say_kept(self, kept: bool) -> str:
        """Return what is left after numbers that are not finite, and what to do."""
        remedy = "Lower learning_rate, or set autocast=float32"
        if kept and self.progress.num_steps:
            return (
                f"the state before it is kept in {self.store.folder}. {remedy}, and train from {self.store.folder / 'checkpoint'}"
            )
        earlier = find_state(self.store.folder)
        return f"{'no weights are kept' if earlier is None else f'kept is the earlier {earlier}'}. {remedy}"

    def _train(self, state: StoredState | None) -> None:
        """Take one step after the other."""
        processes = self.inputs.processes
        with nullcontext(lambda: 0) if processes.size == 1 else noted_interrupts() as signal_that_came:
            num_batches = self._start(state)
            while self.progress.next_step < num_batches and self.ending is Ending.FINISHED:
                if number := max(processes.all_gather(signal_that_came())):
                    raise interruption(number)
                self._step(self.progress.next_step, num_batches)
                self._after_step(self.progress.next_step - 1)

    def _start(self, state: StoredState | None) -> int:
        """Do everything before the next step, and return how many batches there are."""
        num_batches, metrics = self.stage.source.prepare()
        if state is None:
            self.progress.generated_tokens += int(metrics.get("generated_tokens", 0))
            self.log.write(
                {
                    "event": "prepared",
                    "num_batches": num_batches,
                    "seconds": self.progress.seconds,
                    "peak_learning_rate": self.config.learning_rate,
                    **metrics,
                    **self.inputs.lengths.metrics(),
                }
            )
            self._set_resume_point()
            self._evaluate(BEFORE)
        else:
            self._restore(state)
            self.log.write({"event": "resumed", "num_batches": num_batches, "step": self.progress.next_step})
            self._set_resume_point()
            self._after_step(self.progress.next_step - 1)  # it may have been stopped right there
        return num_batches

    def _step(self, step: int, num_batches: int) -> None:
        begun = time.monotonic()
        if self._batch is None:
            self._batch = self._sample_batch(step)
        batch = self._batch
        if self._start_scores is None and self.writer.recipe.saves == "policy":
            self._start_scores = StartScores.take(batch.rows, self.stepper.scorer)
        with held_interrupts():
            outcome, learning_rate = self._update(batch, step, num_batches)
            record = {
                "event": "step",
                "step": step,
                "status": outcome.status.value,
                "loss": outcome.loss,
                "grad_norm": outcome.grad_norm,
                "learning_rate": learning_rate,
                "tokens": batch.trained_tokens,
                "input_tokens": batch.input_tokens,
                "skipped": self.progress.num_skipped,
                "seconds": time.monotonic() - begun,
                **batch.metrics,
                **outcome.metrics,
            }
            self.log.add(record)
            if outcome.status is not StepStatus.NON_FINITE:
                self._batch = None
                self.progress.next_step, self.progress.is_whole = step + 1, True
                self._set_resume_point()
        self.log.tell(record)
        if outcome.status is StepStatus.NON_FINITE:
            raise NonFiniteError(
                f"loss {outcome.loss:.3g} and gradient norm {outcome.grad_norm:.3g} at step {step}, whose update was not made"
            )

    def _sample_batch(self, step: int) -> OpenBatch:
        """Return the rows of a step, with their credit."""
        begun = time.monotonic()
        batch = self.stage.source.batch(step)
        seconds = time.monotonic() - begun
        self.inputs.require_train(batch.rows)
        rows, metrics = self.stage.credit.assign(batch.rows, self.stepper.scorer.score_rows)
        metrics = {"source_seconds": seconds, **batch.metrics, **metrics}
        return OpenBatch(rows=rows, num_updates=batch.num_updates, metrics=metrics)

    def _update(self, batch: OpenBatch, step: int, num_batches: int) -> tuple[StepOutcome, float]:
        """Take the optimizer steps of one batch that are not taken yet; return the last outcome and the learning rate."""
        progress, average = self.progress, self.writer.average
        learning_rate = learning_rate_at(step, num_batches, self.config)
        if getattr(self.config, "signal_scaled", False):
            learning_rate *= self.stepper.share_with_signal(batch.rows, step)
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = learning_rate
        outcome = StepOutcome(status=StepStatus.NO_SIGNAL)
        replayed = [row for row in batch.rows if row.role is RowRole.RETAINED]
        while batch.num_done < batch.num_updates:
            outcome = self.stepper.step(batch.rows, batch.old, step)
            if outcome.status is not StepStatus.UPDATED:
                break
            if average is not None:
                average.update()
            progress.num_steps += 1
            progress.retained_rows += len(replayed)
            progress.retained_tokens += sum(len(row.completion_ids) for row in replayed)
            batch.num_done += 1
            batch.trained_tokens += outcome.trained_tokens
            batch.input_tokens += outcome.input_tokens
            if batch.num_done < batch.num_updates:
                progress.is_whole = True
                self._set_resume_point()
        if outcome.status is not StepStatus.NON_FINITE:
            progress.is_whole = False  # until it is logged
            progress.num_skipped += outcome.status is StepStatus.NO_SIGNAL
            progress.trained_tokens += batch.trained_tokens
            progress.input_tokens += batch.input_tokens
            progress.generated_tokens += int(batch.metrics.get("generated_tokens", 0))
        return outcome, learning_rate

    def _after_step(self, step: int) -> None:
        """Evaluate, and save, when it is time."""
        self._evaluate(step)
        if self.config.save_every is not None and (step + 1) % self.config.save_every == 0:
            with held_interrupts():
                self._save(f"checkpoint-{step + 1}")
                self._keep_state()

    def _evaluate(self, step: int) -> None:
        """Evaluate on the dev slice, save the weights where they are the best so far, and see whether that is enough."""
        if self.evaluate is None or not self.selection.is_due(step):
            return
        with self.writer.averaged():
            evaluation = self.inputs.processes.broadcast(self.evaluate(self.stepper.scorer))
        with held_interrupts():
            selection = copy.copy(self.selection)
            if selection.add(evaluation, step):
                self.writer.write("checkpoint", self.progress.num_steps, selection.evaluations)
            self.selection = selection  # now that its best weights are saved
            record = self.selection.log_record()
            self.log.add(record)
            self._set_resume_point()
        self.ending = self.selection.ending()
        self.log.tell(record)

    def _measure_movement(self) -> None:
        """Measure, and log, how far the policy has moved, averaged where an average is saved."""
        if self._start_scores is None or not self.progress.num_steps:
            return
        with self.writer.averaged():
            found = self.movement = self._start_scores.measure(self.stepper.scorer)
        numbers = {"nats_per_token": found.per_token, "nats_per_answer": found.per_answer, "moved": found.moved}
        self.log.write({"event": "movement", **numbers})

    def _chosen_weights(self) -> AbstractContextManager[None]:
        """Choose between start and end where that is asked for, and return a context in which the model is what was chosen."""
        if self.chooser is None or not self.progress.num_steps:
            return nullcontext()
        self.choice = self.chooser.choose(self.log.write)
        self.ending = Ending.COST_MORE if self.choice.cost_more else self.ending
        return self.chooser.line.at(self.choice.chosen.share)

    def _save(self, folder: str) -> None:
        self.writer.write(folder, self.progress.num_steps, self.selection.evaluations_of(self.progress.next_step - 1))

    def _save_last(self) -> None:
        """Save the weights as they are, unless better ones were saved by the dev slice."""
        if not self.selection.best_is_saved:
            self._save("checkpoint")

    # ------------------------------------------------------------------------------------------------------------ resumption

    def _set_resume_point(self) -> None:
        """Mark what is done and logged as what a stopped run is resumed from."""
        source = self.stage.source
        memory = source.state() if isinstance(source, Stateful) else {}
        self._resume_point = {"source": memory, "log_bytes": self.log.size}

    def _keep_state(self) -> bool:
        """Write the state, unless no step is taken or it is not whole or not finite; return whether it was written."""
        progress, processes = self.progress, self.inputs.processes
        batch = None if self._batch is None or self._batch.num_done == 0 else self._batch
        if (progress.next_step == 0 and batch is None) or not progress.is_whole or not self.store.is_shared:
            return False
        tensors = self._trained.collect()
        if not all(processes.all_gather(all_finite(tensors.values()))):
            return False
        record = {
            "progress": progress.to_json(),
            "selection": self.selection.to_json(),
            "peak_learning_rate": self.config.learning_rate,
            "start_scores": None if self._start_scores is None else self._start_scores.to_json(),
            **self._resume_point,
        }
        if batch is not None:
            record["batch"] = batch.to_json()
            for share in reversed(processes.all_gather({index: values.cpu() for index, values in batch.old.items()})):
                tensors |= {f"old.{index}": values for index, values in share.items() if processes.is_rank_zero}
        with held_interrupts():
            self.store.write(progress.next_step, record, tensors)
        return True

    def _restore(self, state: StoredState) -> None:
        """Take over a state; the progress comes last, since nothing is kept of a run without it."""
        record, stored = state.record, state.tensors
        self.selection = DevSelection.from_json(self.config, record["selection"])
        if isinstance(self.stage.source, Stateful):
            self.stage.source.load(record["source"])
        if (scores := record["start_scores"]) is not None:
            self._start_scores = StartScores.from_json(scores)
        self._trained.restore(stored)
        if (batch := record.get("batch")) is not None:
            names = [name for name in stored.names if name.startswith("old.")]
            old = {int(name.removeprefix("old.")): stored.read_full(name).to(self.stepper.model.device) for name in names}
            self._batch = OpenBatch.from_json(batch, old)
        self._resume_point = {"source": record["source"], "log_bytes": record["log_bytes"]}
        self.progress = Progress.from_json(record["progress"])
        if self.selection.evaluations and self.selection.evaluated_after == self.progress.next_step - 1:
            self.ending = self.selection.ending()

    @property
    def _trained(self) -> TrainedTensors:
        head = self.stage.scalar_head
        return TrainedTensors(
            modules={"model": self.stepper.model, **({} if head is None else {"head": head})},
            optimizer=self.stepper.optimizer,
            average=self.writer.average,
            processes=self.inputs.processes,
        )

    def result(self, recipe_name: str, out: Path) -> TrainingResult:
        """Return what the run did."""
        progress, movement = self.progress, self.movement
        learned = progress.num_steps or self.ending is Ending.TARGET_MET
        return TrainingResult(
            recipe=recipe_name,
            ending=self.ending if learned else Ending.NOTHING_TO_LEARN,
            num_steps=progress.num_steps,
            learning_rate=self.config.learning_rate,
            moved=progress.num_steps > 0 if movement is None else movement.moved,
            nats_per_token=None if movement is None else movement.per_token,
            num_skipped=progress.num_skipped,
            trained_tokens=progress.trained_tokens,
            input_tokens=progress.input_tokens,
            generated_tokens=progress.generated_tokens,
            retained_rows=progress.retained_rows,
            retained_tokens=progress.retained_tokens,
            kept_share=1.0 if self.choice is None else self.choice.chosen.share,
            choice_tokens=0 if self.choice is None else self.choice.tokens,
            num_rows_dropped=self.inputs.lengths.num_dropped,
            num_rows_cut=self.inputs.lengths.num_cut,
            num_problems_dropped=self.inputs.lengths.num_problems_dropped,
            seconds=progress.seconds,
            log=self.log.path,
            checkpoint=out / "checkpoint",
        )
