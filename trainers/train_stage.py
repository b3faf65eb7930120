"""Trains one stage on behaviors, from what people give to a checkpoint in its place; of several processes the first one leads."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.engines.base import Engine, TakesWeights
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.pipeline.request import resolve_behaviors
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.stage_catalogue import HOW_TO_GIVE, STAGES, Need, available_needs
from posttrain.diagnose.types import Behavior, Split
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import ProcessGroup, current, join
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.rollouts.live_engines import check_engine
from posttrain.trainers.training.trainer import TrainingResult
from posttrain.trainers.training_types import TrainingProblem, TrainingRow, TrainingSet

if TYPE_CHECKING:
    import torch

    from posttrain.trainers.stage import FrozenModel
    from posttrain.trainers.training.trainer import Beside

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What the first of several processes asks the others to train with it."""

    stage: str
    model: str
    training_set: TrainingSet
    config: TrainingConfig
    out: Path
    given: Given


def rank_zero_first(function: Callable[P, T]) -> Callable[P, T]:
    """Of several processes that torchrun started, let the first one run the function; the others wait, and train with it when it trains.

    All of them return what the first one returns. Where it fails, torchrun ends the others.
    """

    @wraps(function)
    def led(*args: P.args, **kwargs: P.kwargs) -> T:
        with join() as processes:
            if processes.is_rank_zero:
                result = function(*args, **kwargs)
                processes.broadcast(result)
                return result
            return _follow(processes)

    return led


def _follow(processes: ProcessGroup) -> Any:
    said: object = None
    while True:
        try:
            said = processes.broadcast(said)
        except RuntimeError:  # the first one is gone, and has told why
            sys.exit(1)
        if not isinstance(said, _Order):
            return said
        _train_here(said, Reporter(quiet=True))


@rank_zero_first
def train(
    stage: str,
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    data: str | Path | None = None,
    from_run: str | Path | None = None,
    teacher: str | Path | None = None,
    earlier: str | Path | None = None,
    engine: str | Engine | None = None,
    reporter: Reporter | None = None,
) -> TrainingResult:
    """Run one stage on the train split of behaviors and write a checkpoint that any Hugging Face loader opens.

    A run that was stopped (Ctrl-C, or with `save_every` anything else) left its state in `.OUT.work` beside `out`; the same call goes on from
    there and ends with the weights that it would have had, in another number of processes up to the order of sums. While it is unfinished, other
    settings are refused.

    Args:
        stage: Name of a recipe; `posttrain stages` lists them.
        model: A Hugging Face directory or id, a GGUF file, or `demo`.
        behaviors: What to train on; only their train split is read.
        out: Folder of the checkpoint, with `training_log.jsonl` and the resolved configuration beside the weights.
        config: YAML file with settings of the recipe.
        overrides: `key=value` settings; they win over the file.
        seed: Of the order of rows and of every draw; wins over the file.
        data: JSONL or parquet file of rows to learn from, in place of the problems' own references or of samples.
        from_run: Folder of a `posttrain diagnose` that sampled the train split of these behaviors; its rollouts become rows or pairs.
        teacher: MODEL that teaches, for stages with a teacher.
        earlier: MODEL from before, for stages that bring something back; it teaches where no teacher is given.
        engine: What samples the model in training, `transformers` or `vllm`; wins over the file. Or an open engine with `load_weights`, which
            stays open and holds the checkpoint's weights in the end.
        reporter: Where progress goes.

    Raises:
        UserError: anything given is wrong; nothing was written in that case.
        NonFiniteError: the loss or a gradient was NaN or infinite; the log is kept beside `out`, or with the state.
    """
    reporter, out = reporter or Reporter(quiet=True), Path(out)
    name = engine if engine is None or isinstance(engine, str) else engine.info.name
    settings = resolve_config(stage, config, overrides, seed, name)
    check_engine(settings.engine if engine is None else engine)
    if data and from_run:
        raise SettingsError("train: got --data and --from; give one of them: a stage learns from rows of one origin")
    loaded = resolve_behaviors(behaviors)
    own = engine if isinstance(engine, TakesWeights) else None
    given = Given(data=data, from_run=from_run, teacher=teacher, earlier=earlier, engine=own)
    for behavior in loaded:
        lacking = [HOW_TO_GIVE[need] for need in STAGES[stage].needs if need not in given.available(behavior)]
        if lacking:
            raise SettingsError(
                f"train {stage}: {'; '.join(lacking)} for {behavior.name}; give that, or name another stage (see `posttrain stages`)"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"--out {out}: exists already; give a new folder for the checkpoint")
    refuse_shared_problems(loaded)
    training_set = TrainingSet(loaded, dev_share=settings.dev_share)
    return train_rows(stage, model, training_set, settings, out, reporter, given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a stage is given beside the model and the behaviors."""

    data: str | Path | None = None
    from_run: str | Path | None = None
    teacher: str | Path | None = None
    earlier: str | Path | None = None
    engine: TakesWeights | None = None
    """An open one, to be used in place of the one that the settings name."""

    def available(self, behavior: Behavior) -> frozenset[Need]:
        """What stages can be fed with. Data may be of any kind: the stage itself refuses the wrong one."""
        found = available_needs(behavior, teacher=bool(self.teacher or self.earlier), earlier=bool(self.earlier or self.teacher))
        if self.data:
            found |= {Need.REFERENCES, Need.PAIRS, Need.STEP_FEEDBACK}
        if Need.VERIFIER in found:  # samples that it calls right and wrong are pairs, and rollouts behind a step judge the step
            found |= {Need.PAIRS, Need.STEP_FEEDBACK}
        return found


def resolve_config(
    stage: str, config: str | Path | None, overrides: Sequence[str], seed: int | None, engine: str | None = None
) -> TrainingConfig:
    """The settings of a stage, with a one-line refusal of stages that cannot be run; seed and engine win where they are given."""
    if stage not in RECIPES:
        why = "trains nothing" if stage in STAGES else "is no stage"
        raise SettingsError(f"stage: got {stage!r}, which {why}; allowed are {', '.join(RECIPES)}")
    own = [f"{key}={json.dumps(value)}" for key, value in (("seed", seed), ("engine", engine)) if value is not None]
    return load_config(stage, Path(config) if config else None, [*overrides, *own])


def train_rows(
    stage: str,
    model: str | Path,
    training_set: TrainingSet,
    config: TrainingConfig,
    out: Path,
    reporter: Reporter,
    given: Given | None = None,
) -> TrainingResult:
    """Train, with all processes that there are."""
    order = _Order(stage=stage, model=str(model), training_set=training_set, config=config, out=out, given=given or Given())
    return _train_here(current().broadcast(order), reporter)


def _train_here(order: _Order, reporter: Reporter) -> TrainingResult:
    """Train in a folder beside `out`, which appears when the checkpoint is whole; what a stopped run left there is taken up again.

    Of several processes the first one writes there, and each its part of a state.
    """
    from posttrain.trainers.models.loading import load_for_training
    from posttrain.trainers.rollouts.live_engines import open_live
    from posttrain.trainers.rollouts.weight_sync import stored_tensors
    from posttrain.trainers.training.dev_evaluation import Evaluate, dev_looks
    from posttrain.trainers.training.resume_state import find_state
    from posttrain.trainers.training.trainer import run_recipe

    stage, model, training_set, config, out = order.stage, order.model, order.training_set, order.config, order.out
    processes = current()
    if config.eval_every is not None and RECIPES[stage].saves != "policy":
        raise SettingsError(f"eval_every looks at what a policy samples, and {stage} makes none; leave it out")
    with reporter.task(f"loading {model} for {stage}", None):
        loaded = load_for_training(model, device=processes.load_device)
    engine, adapter = open_live(loaded, config, given=order.given.engine, say=lambda line: reporter.say(f"{stage}: {line}"))
    beside = _open_beside(order.given, model, engine, training_set, processes.train_device(loaded.model), reporter)
    work = _work_folder(out) if processes.is_rank_zero else Path(tempfile.mkdtemp())
    try:
        with ExitStack() as stack:
            if order.given.engine is None:
                stack.callback(engine.close)
            graders = {name: stack.enter_context(Grader(behavior)).grade for name, behavior in training_set.behaviors.items()}
            evaluate: Evaluate | None = None
            if config.eval_every is not None:
                evaluate = dev_looks(engine, graders, training_set, num_samples=config.eval_samples, seed=config.seed)
            task = stack.enter_context(reporter.task(f"training {stage}", None))

            def on_step(record: Mapping[str, object]) -> None:
                if record["event"] == "prepared":
                    task.expect(int(record["num_batches"]))  # type: ignore[call-overload]
                elif record["event"] == "resumed":
                    task.expect(int(record["num_batches"]))  # type: ignore[call-overload]
                    task.advance(int(record["step"]))  # type: ignore[call-overload]
                    reporter.say(f"{stage}: goes on at step {record['step']} of {record['num_batches']}")
                elif record["event"] == "step":
                    task.advance()
                    reward = record.get("reward")
                    task.note(f"loss {record['loss']:.3g}" + (f", reward {reward:.2f}" if isinstance(reward, float) else ""))

            result = run_recipe(
                stage,
                loaded.model,
                loaded.tokenizer,
                engine,
                training_set,
                graders,
                config,
                out=work,
                beside=beside,
                adapter=adapter,
                on_step=on_step,
                evaluate=evaluate,
                say=lambda line: reporter.say(f"{stage}: {line}"),
            )
    except BaseException:
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
    own = order.given.engine
    if own is not None and RECIPES[stage].saves == "policy":  # it holds the weights of the last draw
        own.load_weights(stored_tensors(out), model_fingerprint=fingerprint_model(out))
    return replace(result, log=out / "training_log.jsonl", checkpoint=out)


def _work_folder(out: Path) -> Path:
    """What a stopped run left beside `out`, or an empty folder."""
    from posttrain.trainers.training.resume_state import find_state

    work = out.parent / f".{out.name}.work"
    if find_state(work) is None:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _open_beside(
    given: Given, model: str, engine: Engine, training_set: TrainingSet, device: torch.device, reporter: Reporter
) -> Beside:
    """Read the data and load the other models."""
    from posttrain.trainers.models.loading import load_frozen
    from posttrain.trainers.sources.data_set import read_data
    from posttrain.trainers.sources.finished_run import read_run
    from posttrain.trainers.training.trainer import Beside

    rows: Sequence[TrainingRow] = ()
    prompts: Sequence[TrainingProblem] = ()
    if given.data:
        data = read_data(given.data, engine, list(training_set.behaviors.values()))
        rows, prompts = data.rows, data.prompts
    elif given.from_run:
        rows = read_run(given.from_run, engine, training_set)
    others: dict[str, FrozenModel | None] = {"teacher": None, "earlier": None}
    for name, source in (("teacher", given.teacher), ("earlier", given.earlier)):
        if source:
            with reporter.task(f"loading {name} {source}", None):
                others[name] = load_frozen(str(source), device=device)
    return Beside(data=rows, prompts=prompts, fingerprint=fingerprint_model(model), **others)


def _move(work: Path, out: Path) -> None:
    """Put the checkpoint in its place, with the log inside; without one the log stays where it can be read."""
    if (work / "checkpoint").exists():
        if out.exists():
            out.rmdir()  # empty: checked before anything was trained
        (work / "checkpoint").rename(out)
        for rest in work.iterdir():
            rest.rename(out / rest.name)
        work.rmdir()
    elif (work / "training_log.jsonl").exists():
        (work / "training_log.jsonl").replace(out.parent / f"{out.name}.training_log.jsonl")
        shutil.rmtree(work, ignore_errors=True)
    else:
        shutil.rmtree(work, ignore_errors=True)


def refuse_shared_problems(behaviors: Sequence[Behavior]) -> None:
    """Refuse behaviors of which one trains on what another measures: the split of each knows only its own problems."""

    def questions(splits: set[Split]) -> dict[tuple[str, str], str]:
        return {
            (normalise(p.prompt if isinstance(p.prompt, str) else p.prompt[-1].content), normalise(p.answer)): f"{b.name}/{p.id}"
            for b in behaviors
            for p in b.problems
            if p.split in splits
        }

    train, held = questions({Split.TRAIN}), questions({Split.EVAL, Split.FINAL})
    shared = sorted(set(train) & set(held))
    if shared:
        raise SettingsError(
            f"behaviors: {len(shared)} problems stand in the train split of one and are measured by another (first: {train[shared[0]]} and "
            f"{held[shared[0]]}); measured problems are never trained on, so give the files one split, or name them one at a time"
        )
