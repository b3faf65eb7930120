"""Trains one stage on behaviors, from what a user gives to a checkpoint in its place; of several processes rank 0 leads."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from posttrain.diagnose.behaviors.row_sources import RowSource
from posttrain.diagnose.engines.base import Engine, TakesWeights
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.measure.reference_spacing import write_as_the_model
from posttrain.diagnose.pipeline.request import resolve_behaviors
from posttrain.diagnose.progress import Reporter, Task
from posttrain.diagnose.report.words import describe_limit
from posttrain.diagnose.sampling.token_limit import limit_without_pilot, recorded_limit, room_for_samples
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.storage.output_folder import content_of, locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior, LimitSource
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.thinking import follow_template
from posttrain.trainers.data.data_set import read_data
from posttrain.trainers.distributed.fsdp import join
from posttrain.trainers.distributed.interrupts import stopped_by_signals
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.learning_rate_sweep import close_sweep, sweep_learning_rate
from posttrain.trainers.models.loading import LoadedModel, load_for_training, load_frozen
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.recipes.retention import SAMPLES_FOUND
from posttrain.trainers.rollouts.live_engines import check_engine, open_live
from posttrain.trainers.rollouts.weight_sync import InPlaceEngine, stored_tensors
from posttrain.trainers.sources.finished_run import read_run
from posttrain.trainers.sources.policy import sampler_of
from posttrain.trainers.stage import FrozenModel, TrainingInputs
from posttrain.trainers.train_request import TrainRequest, check_before_loading, refuse_existing, resolve_config
from posttrain.trainers.training.dev_evaluation import DevEvaluator
from posttrain.trainers.training.preparation import fit_lengths
from posttrain.trainers.training.result import TrainingResult
from posttrain.trainers.training.resume_state import find_state
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training.transform import run_transform
from posttrain.trainers.training.weight_choice import chosen_by_dev
from posttrain.trainers.training_types import GradeFn, TrainingProblem, TrainingRow, TrainingSet

T = TypeVar("T")


def train(
    stage: str,
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    data: RowSource | None = None,
    from_run: str | Path | None = None,
    teacher: str | Path | None = None,
    earlier: str | Path | None = None,
    engine: str | Engine | None = None,
    retain: Sequence[str | Path | Behavior] = (),
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Run one stage on the train split of behaviors and write a checkpoint that any Hugging Face loader opens.

    A run that was stopped (Ctrl-C, SIGTERM, SIGHUP, any exception; with `save_every` a kill too) left its last whole state in `.OUT.work`
    beside `out`, and the weights of that state in `.OUT.work/checkpoint`; the same call resumes there and ends with the weights that it would
    have had, in another number of processes up to the order of sums. While it is unfinished, other settings are refused. Of several processes
    an exception in one ends all: what they keep is the state of the last `save_every`.

    Args:
        stage: Name of a recipe; `posttrain stages` lists them.
        model: A Hugging Face directory or id, a GGUF file, or `demo`.
        behaviors: What to train on; only their train split is read.
        out: Folder of the checkpoint, with `training_log.jsonl` and the resolved configuration beside the weights.
        config: YAML file with settings of the recipe.
        overrides: `key=value` settings; they win over the file.
        seed: Of the order of rows and of all sampling; wins over the file.
        data: Rows to learn from, in a file or as `hf:NAME[:CONFIG][:SPLIT]`, in place of the problems' own references or of samples; `MappedRows` says
            which column holds what.
        from_run: Folder of a `posttrain diagnose` that sampled the train split of these behaviors; its rollouts become rows or pairs.
        teacher: MODEL that teaches, for stages with a teacher.
        earlier: MODEL from before, for stages that bring something back; it teaches where no teacher is given.
        engine: What samples the model in training, `transformers` or `vllm`; wins over the file. Or an open engine with `load_weights`, which
            stays open and holds the checkpoint's weights in the end.
        retain: Behaviors that are not to be lost: the model's own right answers to their train problems are `retain_share` of the rows of every
            batch, and of its loss.
        reporter: Where progress goes.

    Raises:
        UserError: anything given is wrong; nothing was written in that case.
        NonFiniteError: the loss, a gradient or a weight was NaN or infinite; the message says what is kept.
        StoppedBySignal: SIGTERM or SIGHUP came, after the state was saved.
    """
    reporter = reporter or Reporter(quiet=True)

    def lead(processes: ProcessGroup) -> TrainingResult:
        name = engine if engine is None or isinstance(engine, str) else engine.info.name
        settings = resolve_config(stage, config, overrides, seed, name)
        check_engine(settings.engine if engine is None else engine, processes.size)
        request = TrainRequest(
            stage=stage,
            model=str(model),
            behaviors=tuple(resolve_behaviors(behaviors)),
            config=settings,
            out=Path(out),
            data=data,
            from_run=from_run,
            teacher=teacher,
            earlier=earlier,
            engine=engine if isinstance(engine, TakesWeights) else None,
            retain=tuple(resolve_behaviors(retain)) if retain else (),
        )
        return run_training(request, processes, reporter)

    return rank_zero_first(lead)


def rank_zero_first(lead: Callable[[ProcessGroup], T]) -> T:
    """Let rank 0 of the processes that torchrun started run a function; the others wait, and train with it when it trains.

    All of them return what rank 0 returns. Where it fails, torchrun ends the others.
    """
    with stopped_by_signals(), join() as processes:
        if processes.is_rank_zero:
            result = lead(processes)
            processes.broadcast(result)
            return result
        while True:
            message: TrainRequest | T | None = None
            try:
                message = processes.broadcast(message)
            except RuntimeError:  # rank 0 is gone, and has told why
                sys.exit(1)
            if not isinstance(message, TrainRequest):
                return message  # type: ignore[return-value]
            _train_here(message, processes, Reporter(quiet=True))


def run_training(request: TrainRequest, processes: ProcessGroup, reporter: Reporter) -> TrainingResult:
    """Train, with all processes that there are; called by rank 0."""
    is_swept = request.config.sweep_steps is not None
    if is_swept:
        check_before_loading(request)
        request = sweep_learning_rate(request, lambda trial: run_training(trial, processes, reporter), reporter)
    result = _train_here(processes.broadcast(request), processes, reporter)
    if is_swept:
        close_sweep(request.out)
    return result


def _train_here(request: TrainRequest, processes: ProcessGroup, reporter: Reporter) -> TrainingResult:
    """Train in a folder beside `out`, which appears when the checkpoint is complete; a stopped run is resumed there.

    Of several processes rank 0 writes there, and each its part of a state.
    """
    check_before_loading(request)
    with locked_work_folder(request.out) if processes.is_rank_zero else nullcontext():
        return _train_locked(request, processes, reporter)


def _train_locked(request: TrainRequest, processes: ProcessGroup, reporter: Reporter) -> TrainingResult:
    stage, config, out = request.stage, request.config, request.out
    with reporter.task(f"loading {request.model} for {stage}", None):
        loaded = load_for_training(request.model, device=processes.load_device)
    engine, adapter = open_live(
        loaded, config, processes, given=request.engine, say=lambda line: reporter.say(f"{stage}: {line}")
    )
    with ExitStack() as stack:
        if request.engine is None:
            stack.callback(engine.close)
        inputs = _read_inputs(request, loaded, engine, processes, reporter)
        work = _work_folder(out) if processes.is_rank_zero else Path(tempfile.mkdtemp())
        try:
            result = _train_in(work, request, inputs, adapter, reporter)
        except BaseException as error:
            for note in getattr(error, "__notes__", ()):
                reporter.say(f"{stage}: {note}")
            if not processes.is_rank_zero:
                shutil.rmtree(work, ignore_errors=True)
            elif find_state(work) is None:
                _move(work, out)
            else:
                reporter.say(f"{stage}: what is finished is kept in {work}; the same command goes on from there")
            raise
    if processes.is_rank_zero:
        _move(work, out)
    else:
        shutil.rmtree(work, ignore_errors=True)
    if request.engine is not None and RECIPES[stage].saves == "policy":  # it holds the weights of the last samples
        request.engine.load_weights(stored_tensors(out), model_fingerprint=fingerprint_model(out))
    return replace(result, log=out / "training_log.jsonl", checkpoint=out)


def _train_in(
    work: Path, request: TrainRequest, inputs: TrainingInputs, adapter: LoraAdapter | None, reporter: Reporter
) -> TrainingResult:
    """Open the verifiers and run the recipe."""
    stage, config = request.stage, request.config
    with ExitStack() as stack:
        retained = {} if inputs.retained is None else inputs.retained.behaviors
        behaviors = {**inputs.training_set.behaviors, **retained}
        verifiers = {name: stack.enter_context(Grader(behavior)) for name, behavior in behaviors.items()}
        graders: dict[str, GradeFn] = {name: verifier.grade for name, verifier in verifiers.items()}
        inputs = replace(inputs, graders=graders)
        for name, verifier in verifiers.items():
            if name in retained or _samples(request):
                verifier.check_ready()
        inputs = fit_lengths(RECIPES[stage], inputs, config, evaluated=_samples_dev(request))
        evaluate = None
        if config.eval_every is not None:
            evaluate = DevEvaluator(sampler_of(inputs), inputs.training_set, num_samples=config.eval_samples, seed=config.seed)
        on_step = _show_progress(request, stack.enter_context(reporter.task(f"training {stage}", None)), reporter)

        def say(line: str) -> None:
            reporter.say(f"{stage}: {line}")

        if RECIPES[stage].transform is not None:
            return run_transform(stage, inputs, config, out=work, on_step=on_step, evaluate=evaluate, say=say)
        return run_recipe(stage, inputs, config, out=work, adapter=adapter, on_step=on_step, evaluate=evaluate, say=say)


def _samples_dev(request: TrainRequest) -> bool:
    """Return whether answers to the dev slice are sampled and graded."""
    return request.config.eval_every is not None or chosen_by_dev(request.retained, request.config)


def _samples(request: TrainRequest) -> bool:
    """Return whether answers to the train problems are sampled and graded."""
    if _samples_dev(request):
        return True
    needs = set(STAGES[request.stage].needs) & {Need.VERIFIER, Need.PAIRS, Need.STEP_FEEDBACK}
    return bool(needs) and not request.data and not request.from_run


def _show_progress(request: TrainRequest, task: Task, reporter: Reporter) -> Callable[[Mapping[str, object]], None]:
    """Return what shows each logged object as progress."""
    stage = request.stage

    def on_step(record: Mapping[str, object]) -> None:
        if record["event"] in ("step", "dev", "movement"):
            part = "train" if record["event"] == "step" else str(record["event"])
            reporter.record({f"{part}/{name}": value for name, value in record.items()}, _as_step(record.get("step")))
        if record["event"] == "prepared":
            task.expect(int(record["num_batches"]))  # type: ignore[call-overload]
            for line in _retention_lines(record, request.config.retain_share):
                reporter.say(f"{stage}: {line}")
        elif record["event"] == "resumed":
            task.expect(int(record["num_batches"]))  # type: ignore[call-overload]
            task.advance(int(record["step"]))  # type: ignore[call-overload]
            reporter.say(f"{stage}: goes on at step {record['step']} of {record['num_batches']}")
        elif record["event"] == "weight_choice":
            task.note(f"measured {record['share']:g} of the way from the weights before training")
        elif record["event"] == "step":
            task.advance()
            reward = record.get("reward")
            task.note(f"loss {record['loss']:.3g}" + (f", reward {reward:.2f}" if isinstance(reward, float) else ""))

    return on_step


def _as_step(value: object) -> int | None:
    """Return a step of training as trackers count them; None for what is none, such as the evaluation before the first step."""
    return value if isinstance(value, int) and value >= 0 else None


def _retention_lines(record: Mapping[str, object], share: float) -> list[str]:
    """Return a line for each retained behavior, from what was logged when its samples were taken."""
    lines = []
    for key, number in record.items():
        if not key.startswith(SAMPLES_FOUND):
            continue
        name = key.removeprefix(SAMPLES_FOUND)
        if number:
            lines.append(
                f"{name} is retained: {number:.0f} right answers, mixed into every batch at a share of {share:g} for all retained behaviors"
            )
        else:
            lines.append(f"warning: no sample of {name} is right, so there is nothing to retain; training goes on without it")
    return lines


def _work_path(out: Path) -> Path:
    return out.parent / f".{out.name}.work"


@contextmanager
def locked_work_folder(out: Path) -> Iterator[None]:
    """Hold the folder beside `out`, so that no other process trains for the same checkpoint.

    Raises:
        RunError: Another process does (`folder_in_use`), or has just written the checkpoint (`out_exists`).
    """
    with locked_folder(_work_path(out), named=f"--out {out}"):
        refuse_existing(out)
        yield


def _work_folder(out: Path) -> Path:
    """Return the folder beside `out`, with what a stopped run left there, or empty; what was not written to the end is removed."""
    work = _work_path(out)
    is_resumed = find_state(work) is not None
    for path in content_of(work):
        if path.name.startswith(".") or not is_resumed:
            _remove(path)
    return work


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read_inputs(
    request: TrainRequest, loaded: LoadedModel, engine: Engine, processes: ProcessGroup, reporter: Reporter
) -> TrainingInputs:
    """Read the data and load the other models; there are no graders yet."""
    # An engine of another kind is not started for this; before the first step the model in training is the one that it will be given.
    own = engine if not isinstance(engine, InPlaceEngine) else TransformersEngine.from_model(loaded.model, loaded.tokenizer)

    def prepared(given: Sequence[Behavior], *, sampled: bool) -> list[Behavior]:
        limited = (_with_limit(request, own, behavior, reporter if sampled else Reporter(quiet=True)) for behavior in given)
        return [write_as_the_model(own, follow_template(behavior, own.codec)) for behavior in limited]

    training_set = TrainingSet(prepared(request.behaviors, sampled=_samples(request)), dev_share=request.config.dev_share)
    retained = None
    if request.retained:
        share = request.config.dev_share if chosen_by_dev(request.retained, request.config) else 0
        retained = TrainingSet(prepared(request.retained, sampled=True), dev_share=share)
    device = processes.train_device(loaded.model)
    rows: Sequence[TrainingRow] = ()
    prompts: Sequence[TrainingProblem] = ()
    fingerprint = ""
    if request.data:
        measured = [*training_set.behaviors.values(), *(() if retained is None else retained.behaviors.values())]
        data = read_data(request.data, engine, measured, RECIPES[request.stage].reads)
        rows, prompts, fingerprint = data.rows, data.prompts, data.fingerprint
        for column in sorted(data.unread):
            reporter.say(
                f"{request.stage}: the model's chat template does not read {column} of {request.data}; nothing of it is shown"
            )
        if data.weights != (1.0, 1.0) or data.num_without_weight:
            least, most = data.weights
            left_out = f"; {data.num_without_weight} rows of weight 0 are left out" if data.num_without_weight else ""
            reporter.say(
                f"{request.stage}: rows of {request.data} count by their column weight, from {least:g} to {most:g}{left_out}"
            )
        if data.passed_over:
            reporter.say(f"{request.stage}: columns of {request.data} that are not used: {', '.join(sorted(data.passed_over))}")
    elif request.from_run:
        rows = read_run(request.from_run, engine, training_set)
    others: dict[str, FrozenModel | None] = {"teacher": None, "earlier": None}
    for name, source in (("teacher", request.teacher), ("earlier", request.earlier)):
        if source:
            with reporter.task(f"loading {name} {source}", None):
                others[name] = load_frozen(str(source), device=device)
    return TrainingInputs(
        engine=engine,
        training_set=training_set,
        graders={},
        processes=processes,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        fingerprint=fingerprint_model(request.model),
        data=tuple(rows),
        data_fingerprint=fingerprint,
        prompts=tuple(prompts),
        teacher=others["teacher"],
        earlier=others["earlier"],
        retained=retained,
    )


def _with_limit(request: TrainRequest, engine: Engine, behavior: Behavior, reporter: Reporter) -> Behavior:
    """Return a behavior whose `max_tokens` is known: as the run of --from found it, else from its references, else 512."""
    if behavior.limit_source is not LimitSource.AUTO:
        return behavior
    if request.from_run:
        behavior = recorded_limit(behavior, RunDirectory(Path(request.from_run)).read_json())
    behavior = limit_without_pilot(engine, behavior, room_for_samples([engine], behavior, max_length=request.config.max_length))
    limit = describe_limit(behavior.sampling.max_tokens, behavior.limit_source)
    reporter.say(f"{request.stage}: {behavior.name}: a sample may have {limit}")
    return behavior


def _move(work: Path, out: Path) -> None:
    """Put the checkpoint in its place, with the log inside; without one a log of steps stays where it can be read."""
    if (work / "checkpoint").exists():
        if out.exists():
            shutil.rmtree(out)  # empty but for files that were not written to the end: checked before anything was trained
        (work / "checkpoint").rename(out)
        for rest in content_of(work):
            rest.rename(out / rest.name)
    elif _holds_steps(work / "training_log.jsonl"):
        (work / "training_log.jsonl").replace(out.parent / f"{out.name}.training_log.jsonl")
    shutil.rmtree(work, ignore_errors=True)


def _holds_steps(log: Path) -> bool:
    """Return whether a log tells of more than preparations: a step, or an evaluation."""
    return log.exists() and any(json.loads(line)["event"] in ("step", "dev") for line in log.read_text().splitlines())
