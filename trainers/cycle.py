"""Closes the loop: diagnose, run the stage that the diagnosis names, measure the same behaviors again in the same way.

A round is one stage: the one that most target behaviors name, trained on those behaviors alone; the others are measured beside it, so
that what a stage costs elsewhere is seen. The final split is sampled once, after the last round, for the behaviors that were trained.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from posttrain.diagnose.behaviors.splits import normalise
from posttrain.diagnose.engines.base import Engine, TakesWeights
from posttrain.diagnose.engines.loading import fingerprint_model
from posttrain.diagnose.errors import RunError, SettingsError, UserError
from posttrain.diagnose.finished_runs import DiagnosedRun
from posttrain.diagnose.planning import resolve_behaviors, sampling_goal
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.session import run
from posttrain.diagnose.stages import STAGES, Need, available
from posttrain.diagnose.store import RunDirectory, write_json
from posttrain.diagnose.transition import Transition, compare
from posttrain.diagnose.types import Behavior, Purpose, Split
from posttrain.diagnose.verifiers.sandbox import Grader
from posttrain.trainers.config import TrainingConfig, load_config
from posttrain.trainers.parallel import Processes, current, join
from posttrain.trainers.recipes import RECIPES
from posttrain.trainers.sampling_engine import EMBEDDED, check_engine
from posttrain.trainers.training_loop import TrainingResult
from posttrain.trainers.types import TrainingProblem, TrainingRow, TrainingSet

if TYPE_CHECKING:
    import torch

    from posttrain.trainers.stage import OtherModel
    from posttrain.trainers.training_loop import Beside

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One stage of a loop."""

    stage: str
    trained: tuple[str, ...]
    """Names of the behaviors it was trained on."""
    checkpoint: Path
    after: DiagnosedRun


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopResult:
    """A finished loop."""

    path: Path
    before: DiagnosedRun
    rounds: tuple[Round, ...]
    """Empty when the diagnosis names no stage that trains."""
    transition: Transition | None
    """From the start to the last checkpoint, on the eval split; None without a round."""
    final: Transition | None
    """The same on the final split, for the trained behaviors; None where there is no such split."""

    @property
    def report_html(self) -> Path:
        """The page to open."""
        return self.path / "report.html" if self.rounds else self.before.report_html


# ------------------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What the first of several processes asks the others to train with it."""

    stage: str
    model: str
    training_set: TrainingSet
    config: TrainingConfig
    out: Path
    given: Given


def led_by_first(function: Callable[P, T]) -> Callable[P, T]:
    """Of several processes that torchrun started, let the first one run the function; the others wait, and train with it when it trains.

    All of them return what the first one returns. Where it fails, torchrun ends the others.
    """

    @wraps(function)
    def led(*args: P.args, **kwargs: P.kwargs) -> T:
        with join() as processes:
            if processes.is_first:
                result = function(*args, **kwargs)
                processes.first(result)
                return result
            return _follow(processes)

    return led


def _follow(processes: Processes) -> Any:
    said: object = None
    while True:
        try:
            said = processes.first(said)
        except RuntimeError:  # the first one is gone, and has told why
            sys.exit(1)
        if not isinstance(said, _Order):
            return said
        _train_here(said, Reporter(quiet=True))


@led_by_first
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
        lacking = [need.value for need in STAGES[stage].needs if need not in given.at_hand(behavior)]
        if lacking:
            raise SettingsError(
                f"train {stage}: {_how_to_give(lacking)} for {behavior.name}; give that, or name another stage (see `posttrain stages`)"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"--out {out}: exists already; give a new folder for the checkpoint")
    _refuse_shared_problems(loaded)
    training_set = TrainingSet(loaded, dev_share=settings.dev_share)
    return _train(stage, model, training_set, settings, out, reporter, given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a stage is given beside the model and the behaviors."""

    data: str | Path | None = None
    from_run: str | Path | None = None
    teacher: str | Path | None = None
    earlier: str | Path | None = None
    engine: TakesWeights | None = None
    """An open one, to be used in place of the one that the settings name."""

    def at_hand(self, behavior: Behavior) -> frozenset[Need]:
        """What stages can be fed with. Data may be of any kind: the stage itself refuses the wrong one."""
        found = available(behavior, teacher=bool(self.teacher or self.earlier), earlier=bool(self.earlier or self.teacher))
        if self.data:
            found |= {Need.REFERENCES, Need.PAIRS, Need.STEP_FEEDBACK}
        if Need.VERIFIER in found:  # samples that it calls right and wrong are pairs, and rollouts behind a step judge the step
            found |= {Need.PAIRS, Need.STEP_FEEDBACK}
        return found


_HOW_TO_GIVE = {
    Need.REFERENCES.value: "the train problems need `references` (at least every second one), or rows with --data",
    Need.VERIFIER.value: "a verifier and problems of the train split are needed",
    Need.PAIRS.value: "pairs are needed: rows with prompt, chosen and rejected with --data, or train problems with a verifier",
    Need.TEACHER.value: "a teacher is needed (--teacher, or --earlier)",
    Need.EARLIER_CHECKPOINT.value: "an earlier checkpoint is needed (--earlier)",
    Need.STEP_FEEDBACK.value: "labelled steps are needed with --data, or train problems with a verifier",
}


def _how_to_give(lacking: Sequence[str]) -> str:
    return "; ".join(_HOW_TO_GIVE.get(need, need) for need in lacking)


def resolve_config(
    stage: str, config: str | Path | None, overrides: Sequence[str], seed: int | None, engine: str | None = None
) -> TrainingConfig:
    """The settings of a stage, with a one-line refusal of stages that cannot be run; seed and engine win where they are given."""
    if stage not in RECIPES:
        why = "trains nothing" if stage in STAGES else "is no stage"
        raise SettingsError(f"stage: got {stage!r}, which {why}; allowed are {', '.join(RECIPES)}")
    own = [f"{key}={json.dumps(value)}" for key, value in (("seed", seed), ("engine", engine)) if value is not None]
    return load_config(stage, Path(config) if config else None, [*overrides, *own])


def _train(
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
    return _train_here(current().first(order), reporter)


def _train_here(order: _Order, reporter: Reporter) -> TrainingResult:
    """Train in a folder beside `out`, which appears when the checkpoint is whole; what a stopped run left there is taken up again.

    Of several processes the first one writes there, and each its part of a state.
    """
    from posttrain.trainers.evaluation import Evaluate, dev_looks
    from posttrain.trainers.in_place_engine import stored_tensors
    from posttrain.trainers.models import load_for_training
    from posttrain.trainers.sampling_engine import open_live
    from posttrain.trainers.training_loop import run_recipe
    from posttrain.trainers.training_state import find_state

    stage, model, training_set, config, out = order.stage, order.model, order.training_set, order.config, order.out
    processes = current()
    if config.eval_every is not None and RECIPES[stage].saves != "policy":
        raise SettingsError(f"eval_every looks at what a policy samples, and {stage} makes none; leave it out")
    with reporter.task(f"loading {model} for {stage}", None):
        loaded = load_for_training(model, device=processes.loads_on)
    engine, adapter = open_live(loaded, config, given=order.given.engine, say=lambda line: reporter.say(f"{stage}: {line}"))
    beside = _open_beside(order.given, model, engine, training_set, processes.trains_on(loaded.model), reporter)
    work = _work_folder(out) if processes.is_first else Path(tempfile.mkdtemp())
    try:
        with ExitStack() as stack:
            if order.given.engine is None and (close := getattr(engine, "close", None)) is not None:
                stack.callback(close)
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
        if not processes.is_first:
            shutil.rmtree(work, ignore_errors=True)
        elif find_state(work) is None:
            _move(work, out)
        else:
            reporter.say(f"{stage}: what is finished is kept in {work}; the same command goes on from there")
        raise
    if processes.is_first:
        _move(work, out)
    else:
        shutil.rmtree(work, ignore_errors=True)
    own = order.given.engine
    if own is not None and RECIPES[stage].saves == "policy":  # it holds the weights of the last draw
        own.load_weights(stored_tensors(out), model_fingerprint=fingerprint_model(out))
    return replace(result, log=out / "training_log.jsonl", checkpoint=out)


def _work_folder(out: Path) -> Path:
    """What a stopped run left beside `out`, or an empty folder."""
    from posttrain.trainers.training_state import find_state

    work = out.parent / f".{out.name}.work"
    if find_state(work) is None:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _open_beside(
    given: Given, model: str, engine: Engine, training_set: TrainingSet, device: torch.device, reporter: Reporter
) -> Beside:
    """Read the data and load the other models."""
    from posttrain.trainers.models import load_other
    from posttrain.trainers.sources.data import read_data
    from posttrain.trainers.sources.finished_run import read_run
    from posttrain.trainers.training_loop import Beside

    rows: Sequence[TrainingRow] = ()
    prompts: Sequence[TrainingProblem] = ()
    if given.data:
        data = read_data(given.data, engine, list(training_set.behaviors.values()))
        rows, prompts = data.rows, data.prompts
    elif given.from_run:
        rows = read_run(given.from_run, engine, training_set)
    others: dict[str, OtherModel | None] = {"teacher": None, "earlier": None}
    for name, source in (("teacher", given.teacher), ("earlier", given.earlier)):
        if source:
            with reporter.task(f"loading {name} {source}", None):
                others[name] = load_other(str(source), device=device)
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


# ---------------------------------------------------------------------------------------------------------------------- loop


@led_by_first
def loop(
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    rounds: int = 1,
    stages: Sequence[str] = (),
    samples: int | None = None,
    precision: float | None = None,
    max_tokens_total: int | None = None,
    probes: Sequence[str] = ("auto",),
    engine: str = "transformers",
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    command: str = "",
    reporter: Reporter | None = None,
) -> LoopResult:
    """Diagnose, train the named stage, measure again; `rounds` times. Run again, it goes on where it was stopped.

    Args:
        model: A Hugging Face directory or id, a GGUF file, or `demo`.
        behaviors: What to measure; those with purpose `target` may be trained.
        out: Folder of the loop: `diagnosis-0`, `stage-1`, `diagnosis-1`, ..., `compare.json`, `report.html`.
        rounds: At most so many stages; the loop ends early when no diagnosis names one that trains.
        stages: Stages to run instead of the named ones, one per round.
        samples: Samples per problem in every diagnosis; 16 where neither a precision nor a budget is given.
        precision: In place of a number: half-width of the primary metric's interval, as for `posttrain.diagnose.run`.
        max_tokens_total: In place of a number: generated tokens of each diagnosis at most, as for `posttrain.diagnose.run`.
        probes: Further probes of every diagnosis, as for `posttrain.diagnose.run`.
        engine: What samples, in every diagnosis and in training: `transformers` or `vllm`.
        config: YAML file with settings of the recipe.
        overrides: `key=value` settings of the recipe.
        seed: Of the draws and of training.
        command: What to print under "how to reproduce".
        reporter: Where progress goes.

    Raises:
        UserError: anything given is wrong.
    """
    reporter, directory = reporter or Reporter(quiet=True), RunDirectory(Path(out))
    goal = sampling_goal(samples, precision, max_tokens_total)
    if rounds < 1:
        raise SettingsError(f"--rounds: got {rounds}, at least 1 is needed")
    if config and not stages:
        raise SettingsError("--config: a file of settings belongs to one stage; name the stages with --stages, or use --set")
    check_engine(engine)
    trains_with = None if engine == EMBEDDED else engine
    loaded = resolve_behaviors(behaviors)
    for stage in stages:
        check_engine(resolve_config(stage, config, overrides, seed, trains_with).engine)
        _trainable(loaded, stage)
    if not stages:
        _check_overrides(overrides, seed)
    _refuse_shared_problems(loaded)
    rounds = len(stages) or rounds
    settings: dict[str, Any] = {
        "model_fingerprint": fingerprint_model(model),
        "behaviors": {b.name: b.fingerprint for b in loaded},
        "samples": goal.samples,
        "precision": goal.precision,
        "max_tokens_total": goal.max_tokens,
        "probes": list(probes),
        "engine": engine,
        "seed": seed,
        "rounds": rounds,
        "stages": list(stages),
        "config": Path(config).read_text() if config else None,
        "overrides": list(overrides),
    }
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    directory.open("loop", settings, {"model": {"source": str(model)}, "command": command, "created": created})
    measure = partial(
        run,
        engine=engine,
        samples=goal.samples,
        precision=goal.precision,
        max_tokens_total=goal.max_tokens,
        probes=probes,
        seed=seed,
        command=command,
        reporter=reporter,
    )
    try:
        before = measure(model, loaded, out=directory.path / "diagnosis-0")
    except UserError:
        directory.discard_if_bare()
        raise
    for diagnosis in before.diagnoses:
        reporter.say(diagnosis.sentence)

    done: list[Round] = []
    current, last = str(model), before
    for number in range(1, rounds + 1):
        chosen = (stages[number - 1], _trainable(loaded, stages[number - 1])) if stages else _choose(last, loaded)
        if chosen is None:
            reporter.say("No diagnosis names a stage that trains: nothing to run.")
            break
        stage, names = chosen
        checkpoint = directory.path / f"stage-{number}"
        reporter.say(f"round {number}: {stage} on {', '.join(names)}")
        # The marker stands outside the checkpoint and is written last: a stage that was stopped half-way goes on from its state.
        finished = directory.path / f"stage-{number}.json"
        if not finished.exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
            usable = [text for text in overrides if stages or _key(text) in RECIPES[stage].config.model_fields]
            settings_of_stage = resolve_config(stage, config, usable, seed, trains_with)
            training_set = TrainingSet([b for b in loaded if b.name in names], dev_share=settings_of_stage.dev_share)
            given = Given(earlier=model if current != str(model) else None)
            trained = _train(stage, current, training_set, settings_of_stage, checkpoint, reporter, given)
            write_json(finished, _stage_summary(trained, names))
        after = measure(checkpoint, loaded, out=directory.path / f"diagnosis-{number}", earlier=str(model), before=before.path)
        done.append(Round(stage=stage, trained=names, checkpoint=checkpoint, after=after))
        current, last = str(checkpoint), after

    result = _finish(directory, model, loaded, before, done, measure)
    directory.finish()
    return result


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _check_overrides(overrides: Sequence[str], seed: int) -> None:
    """While the stage is not known yet, every setting must be one of a recipe that may be named."""
    for text in overrides:
        fitting = [name for name in RECIPES if _key(text) in RECIPES[name].config.model_fields]
        check_engine(resolve_config((fitting or list(RECIPES))[0], None, [text], seed).engine)


def _refuse_shared_problems(behaviors: Sequence[Behavior]) -> None:
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


def _stage_summary(result: TrainingResult, names: Sequence[str]) -> dict[str, Any]:
    return {
        "stage": result.recipe,
        "trained": list(names),
        "ending": result.ending.value,
        "optimizer_steps": result.num_steps,
        "batches_without_signal": result.num_skipped,
        "trained_tokens": result.trained_tokens,
        "generated_tokens": result.generated_tokens,
        "seconds": result.seconds,
    }


def _trainable(behaviors: Sequence[Behavior], stage: str) -> tuple[str, ...]:
    """The target behaviors that can feed a stage."""
    names = tuple(b.name for b in behaviors if b.purpose is Purpose.TARGET and set(STAGES[stage].needs) <= available(b))
    if not names:
        raise SettingsError(
            f"--stages: no target behavior has what {stage} needs ({', '.join(STAGES[stage].needs)}); give another stage"
        )
    return names


def _choose(run_: DiagnosedRun, behaviors: Sequence[Behavior]) -> tuple[str, tuple[str, ...]] | None:
    """The stage that most target behaviors name; of equals the one that reshapes, since it needs nothing that is not there."""
    named: dict[str, list[str]] = {}
    for behavior in behaviors:
        stage = run_[behavior.name].diagnosis.stage
        if behavior.purpose is Purpose.TARGET and stage is not None and stage.name in RECIPES:
            named.setdefault(stage.name, []).append(behavior.name)
    if not named:
        return None
    best = max(named, key=lambda name: (len(named[name]), Need.VERIFIER in STAGES[name].needs))
    return best, tuple(named[best])


def _finish(
    directory: RunDirectory,
    model: str | Path,
    behaviors: Sequence[Behavior],
    before: DiagnosedRun,
    done: list[Round],
    measure: Callable[..., DiagnosedRun],
) -> LoopResult:
    """Compare start and end, sample the final split once with `measure`, write the report."""
    if not done:
        return LoopResult(path=directory.path, before=before, rounds=(), transition=None, final=None)
    trained = tuple(dict.fromkeys(name for round_ in done for name in round_.trained))
    label = " → ".join(round_.stage for round_ in done)
    transition = compare(before, done[-1].after, out=directory.path, trained=trained, stage=label, page=False)
    final = None
    held_out = [b for b in behaviors if b.name in trained and b.split(Split.FINAL)]
    if held_out:
        sides = [
            measure(source, held_out, out=directory.path / folder, split=Split.FINAL)
            for source, folder in ((model, "final-0"), (done[-1].checkpoint, "final-1"))
        ]
        final = compare(sides[0], sides[1], out=directory.path / "final", trained=trained, stage=label, page=False)
    result = LoopResult(path=directory.path, before=before, rounds=tuple(done), transition=transition, final=final)
    write_json(directory.path / "loop.json", _summary(result))
    _write_report(directory, result)
    return result


def _summary(result: LoopResult) -> dict[str, Any]:
    return {
        "schema": 1,
        "rounds": [
            {
                "stage": r.stage,
                "trained": list(r.trained),
                "checkpoint": str(r.checkpoint),
                "fingerprint": fingerprint_model(r.checkpoint),
            }
            for r in result.rounds
        ],
        "bottlenecks": {
            d.name: {"before": d.bottleneck.value, "after": result.rounds[-1].after[d.name].diagnosis.bottleneck.value}
            for d in result.before.diagnoses
        },
    }


def _write_report(directory: RunDirectory, result: LoopResult) -> None:
    from posttrain.diagnose.report import write_report
    from posttrain.diagnose.report.content import ReportContent

    assert result.transition is not None
    record = directory.read_json()
    after = result.rounds[-1].after
    comparisons = [behavior.report for behavior in result.transition.behaviors]
    if result.final is not None:
        note = "Problems of the final split, sampled once, after the last round."
        comparisons += [
            replace(b.report, name=f"{b.name} (final split)", notes=(note, *b.report.notes)) for b in result.final.behaviors
        ]
    versions = json.loads((after.path / "run.json").read_text())["versions"]
    write_report(
        directory.path,
        ReportContent(
            title="What held it back, what was done, and what came of it",
            model=str(record["model"]["source"]),
            date=record["created"],
            command=record["command"] or "see run.json",
            settings={key: value for key, value in record["settings"].items() if key != "behaviors"}
            | {"stage": ", ".join(f"{r.stage} on {', '.join(r.trained)}" for r in result.rounds)},
            versions=versions,
            behaviors=tuple(measured.report for measured in after.behaviors),
            comparisons=tuple(comparisons),
            checkpoint=str(result.rounds[-1].checkpoint),
            measured_in=str(after.path),
        ),
    )
