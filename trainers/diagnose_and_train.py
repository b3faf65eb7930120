"""The loop: diagnose, train the stage that the diagnosis names, and measure the same behaviors again in the same way.

A round is one stage: the one that most target behaviors name, trained on those behaviors alone; the others are measured too, so
that what a stage costs elsewhere is seen. The final split is sampled once, after the last round, for the behaviors that were trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

from posttrain.diagnose.comparison.transition import Transition
from posttrain.diagnose.engines import check_model
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.errors import RunError, SettingsError, UserError
from posttrain.diagnose.pipeline.compare_files import compare_folders, write_comparison
from posttrain.diagnose.pipeline.diagnose_run import run
from posttrain.diagnose.pipeline.pilot import refuse_stopped
from posttrain.diagnose.pipeline.request import resolve_behaviors
from posttrain.diagnose.probes.runner import AUTO, choose_probes
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.sampling.plan import Goal, sampling_goal
from posttrain.diagnose.stage_catalogue import STAGES, Need, available_needs
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.storage.files import checksum_of_file, read_json, write_json
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.storage.writable import check_writable
from posttrain.diagnose.types import Behavior, Purpose, Split
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.rollouts.live_engines import EMBEDDED, check_engine
from posttrain.trainers.train_request import TrainRequest, check_config, refuse_shared_problems, resolve_config
from posttrain.trainers.train_stage import rank_zero_first, run_training
from posttrain.trainers.training.result import TrainingResult
from posttrain.trainers.training_types import TrainingSet

MOST_ROUNDS = 1_000
"""Stages that one loop may run."""
_FOR_PEOPLE = ("README.md", "training_log.jsonl")
"""Files of a checkpoint that no model is loaded from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRound:
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
    rounds: tuple[LoopRound, ...]
    """Empty when the diagnosis names no stage that trains."""
    transition: Transition | None
    """From the start to the last checkpoint, on the eval split; None without a round."""
    final: Transition | None
    """The same on the final split, for the trained behaviors; None where there is no such split."""

    @property
    def report_html(self) -> Path:
        """The page to open."""
        return self.path / "report.html" if self.rounds else self.before.report_html


class LoopOptions(TypedDict, total=False):
    """The optional fields of `LoopRequest`, which says what they mean."""

    rounds: int
    stages: Sequence[str]
    samples: int | None
    precision: float | None
    max_tokens_total: int | None
    probes: Sequence[str]
    engine: str
    config: str | Path | None
    overrides: Sequence[str]
    pilot: bool
    seed: int
    command: str


def loop(
    model: str | Path,
    behaviors: Sequence[str | Path | Behavior],
    *,
    out: str | Path,
    reporter: Reporter | None = None,
    **options: Unpack[LoopOptions],
) -> LoopResult:
    """Diagnose, train the named stage, measure again; `rounds` times. The same call resumes a loop that was stopped.

    Args:
        model: A Hugging Face directory or id, a GGUF file, or `demo`.
        behaviors: What to measure; those with purpose `target` may be trained.
        out: Folder of the loop: `diagnosis-0`, `stage-1`, `diagnosis-1`, ..., `compare.json`, `report.html`.
        reporter: Where progress goes.
        options: The words of the command line: `rounds`, `stages`, `samples`, `precision`, `max_tokens_total`, `probes`, `engine`, `config`,
            `overrides`, `pilot`, `seed`, `command`; see `LoopRequest`.

    Raises:
        UserError: anything given is wrong.
    """

    def lead(processes: ProcessGroup) -> LoopResult:
        request = LoopRequest(model=str(model), behaviors=behaviors, out=Path(out), **options)
        return _run_loop(request, processes, reporter or Reporter(quiet=True))

    return rank_zero_first(lead)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRequest:
    """What a loop is asked for.

    Raises:
        UserError: Anything given is wrong.
    """

    model: str
    """A Hugging Face directory or id, a GGUF file, or `demo`."""
    behaviors: Sequence[str | Path | Behavior]
    """What to measure; those with purpose `target` may be trained."""
    out: Path
    """Folder of the loop."""
    rounds: int = 1
    """Stages at most; the loop ends early when no diagnosis names one that trains."""
    stages: Sequence[str] = ()
    """Stages to run instead of the named ones, one per round."""
    samples: int | None = None
    """Samples per problem in every diagnosis; 16 where neither a precision nor a budget is given."""
    precision: float | None = None
    """In place of a number: half-width of the primary metric's interval, as for `posttrain.diagnose.run`."""
    max_tokens_total: int | None = None
    """In place of a number: generated tokens of each diagnosis at most, as for `posttrain.diagnose.run`."""
    probes: Sequence[str] = (AUTO,)
    """Further probes of every diagnosis, as for `posttrain.diagnose.run`."""
    engine: str = EMBEDDED
    """What samples, in every diagnosis and in training: `transformers` or `vllm`."""
    config: str | Path | None = None
    """YAML file with settings of the recipe."""
    overrides: Sequence[str] = ()
    """`key=value` settings of the recipe."""
    pilot: bool = True
    """Whether to stop where a setup check or the pilot of the first diagnosis shows that settings do not fit; later diagnoses have no pilot."""
    seed: int = 0
    """Of sampling and of training."""
    command: str = ""
    """What to print under "how to reproduce"."""

    loaded: tuple[Behavior, ...] = field(init=False)
    """The behaviors themselves."""
    goal: Goal = field(init=False)
    """What every diagnosis samples for."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run, and load the behaviors."""
        object.__setattr__(self, "goal", sampling_goal(self.samples, self.precision, self.max_tokens_total))
        if self.rounds < 1:
            raise SettingsError(f"--rounds: got {self.rounds}, at least 1 is needed", code="too_few_rounds")
        if self.rounds > MOST_ROUNDS:
            raise SettingsError(f"--rounds: got {self.rounds}, at most {MOST_ROUNDS:,} can be run", code="too_many_rounds")
        if self.config and not self.stages:
            raise SettingsError(
                "--config: a file of settings belongs to one stage; name the stages with --stages, or use --set",
                code="config_without_stages",
            )
        check_engine(self.engine)
        loaded = resolve_behaviors(self.behaviors)
        for stage in self.stages:
            check_engine(self.config_of(stage, self.overrides).engine)
            check_config(stage, self.config_of(stage, self.overrides))
            names = _trainable(loaded, stage)
            TrainingSet([b for b in loaded if b.name in names], dev_share=self.config_of(stage, self.overrides).dev_share)
        if not self.stages:
            for text in self.overrides:  # while the stage is not known yet, each must be a setting of a recipe that may be named
                fitting = [name for name in RECIPES if _key(text) in RECIPES[name].config.model_fields]
                check_engine(resolve_config((fitting or list(RECIPES))[0], None, [text], self.seed).engine)
            shared = [text for text in self.overrides if _key(text) in TrainingConfig.model_fields]
            check_config("sft", resolve_config("sft", None, shared, self.seed))
            if targets := [b for b in loaded if b.purpose is Purpose.TARGET]:
                TrainingSet(targets)
        refuse_shared_problems(loaded)
        check_writable(self.out)
        check_model(self.engine, self.model)
        choose_probes(self.probes)
        object.__setattr__(self, "loaded", loaded)

    @property
    def num_rounds(self) -> int:
        """How many stages are run at most."""
        return len(self.stages) or self.rounds

    def config_of(self, stage: str, overrides: Sequence[str]) -> TrainingConfig:
        """Return the settings of a stage."""
        return resolve_config(stage, self.config, overrides, self.seed, None if self.engine == EMBEDDED else self.engine)

    def settings(self) -> dict[str, Any]:
        """Return what a resumed loop must share."""
        return {
            "model_fingerprint": fingerprint_model(self.model),
            "behaviors": {b.name: b.fingerprint for b in self.loaded},
            "samples": self.goal.samples,
            "precision": self.goal.precision,
            "max_tokens_total": self.goal.max_tokens,
            "probes": list(self.probes),
            "engine": self.engine,
            "seed": self.seed,
            "rounds": self.num_rounds,
            "stages": list(self.stages),
            "config": Path(self.config).read_text() if self.config else None,
            "overrides": list(self.overrides),
        }


def _run_loop(request: LoopRequest, processes: ProcessGroup, reporter: Reporter) -> LoopResult:
    check_engine(request.engine, processes.size)
    directory = RunDirectory(request.out)
    settings = request.settings()
    directory.check("loop", settings)
    with locked_folder(directory.path):
        return _run_locked(request, settings, processes, reporter)


def _run_locked(request: LoopRequest, settings: dict[str, Any], processes: ProcessGroup, reporter: Reporter) -> LoopResult:
    directory = RunDirectory(request.out)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    directory.open("loop", settings, {"model": {"source": request.model}, "command": request.command, "created": created})
    measure = partial(
        run,
        engine=request.engine,
        samples=request.samples,
        precision=request.precision,
        max_tokens_total=request.max_tokens_total,
        probes=request.probes,
        pilot=False,
        seed=request.seed,
        command=request.command,
        reporter=reporter,
    )
    try:
        before = measure(request.model, request.loaded, out=directory.path / "diagnosis-0", pilot=request.pilot)
    except UserError:
        directory.discard_if_empty()
        raise
    for diagnosis in before.diagnoses:
        reporter.say(diagnosis.sentence)
    if request.pilot:
        refuse_stopped(before)
    request = replace(request, behaviors=tuple(one.behavior for one in before.behaviors))  # with the limits that were found
    done: list[LoopRound] = []
    model, last = request.model, before
    for number in range(1, request.num_rounds + 1):
        if request.stages:
            stage = request.stages[number - 1]
            chosen: tuple[str, tuple[str, ...]] | None = (stage, _trainable(request.loaded, stage))
        else:
            chosen = _choose(last, request.loaded)
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
            trained = run_training(_train_request(request, stage, names, model, checkpoint), processes, reporter)
            write_json(finished, _stage_summary(trained, names) | {"files": _checksums(checkpoint)})
        else:
            _refuse_damaged(checkpoint, read_json(finished, remedy="remove it to train this stage again"), finished)
        last = measure(
            checkpoint, request.loaded, out=directory.path / f"diagnosis-{number}", earlier=request.model, before=before.path
        )
        done.append(LoopRound(stage=stage, trained=names, checkpoint=checkpoint, after=last))
        model = str(checkpoint)
    result = _finish(directory, request, before, done, measure)
    directory.finish()
    return result


def _train_request(request: LoopRequest, stage: str, names: Sequence[str], model: str, checkpoint: Path) -> TrainRequest:
    """Return the request of one round; overrides that are no settings of a stage that a diagnosis named are left out."""
    overrides = [text for text in request.overrides if request.stages or _key(text) in RECIPES[stage].config.model_fields]
    return TrainRequest(
        stage=stage,
        model=model,
        behaviors=tuple(behavior for behavior in request.loaded if behavior.name in names),
        config=request.config_of(stage, overrides),
        out=checkpoint,
        earlier=request.model if model != request.model else None,
    )


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


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


def _checksums(checkpoint: Path) -> dict[str, str]:
    """Return the checksums of what a model is loaded from, by the name of the file."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name not in _FOR_PEOPLE]
    return {path.relative_to(checkpoint).as_posix(): checksum_of_file(path) for path in files}


def _refuse_damaged(checkpoint: Path, summary: Mapping[str, Any], marker: Path) -> None:
    """Refuse a checkpoint of an earlier call whose files are not those that were written.

    Raises:
        RunError: Code `damaged_checkpoint`.
    """
    known: Mapping[str, str] = summary.get("files", {})  # earlier versions wrote none
    found = _checksums(checkpoint) if known else {}
    changed = next((name for name, checksum in known.items() if found.get(name) != checksum), None)
    if changed is not None:
        what = "has changed since it was written" if changed in found else "is missing"
        raise RunError(
            f"{checkpoint / changed} {what}; remove {marker} to train this stage again, or put the file back",
            code="damaged_checkpoint",
        )


def _trainable(behaviors: Sequence[Behavior], stage: str) -> tuple[str, ...]:
    """Return the names of the target behaviors that have what a stage needs."""
    names = tuple(b.name for b in behaviors if b.purpose is Purpose.TARGET and set(STAGES[stage].needs) <= available_needs(b))
    if not names:
        raise SettingsError(
            f"--stages: no target behavior has what {stage} needs ({', '.join(STAGES[stage].needs)}); give another stage",
            code="missing_input",
        )
    return names


def _choose(run_: DiagnosedRun, behaviors: Sequence[Behavior]) -> tuple[str, tuple[str, ...]] | None:
    """Return the stage that most target behaviors name, and these; of equals one with a verifier, which needs no further data."""
    named: dict[str, list[str]] = {}
    for behavior in behaviors:
        stage = run_[behavior.name].diagnosis.stage
        if behavior.purpose is Purpose.TARGET and stage is not None and stage.name in RECIPES and behavior.split(Split.TRAIN):
            named.setdefault(stage.name, []).append(behavior.name)
    if not named:
        return None
    best = max(named, key=lambda name: (len(named[name]), Need.VERIFIER in STAGES[name].needs))
    return best, tuple(named[best])


def _finish(
    directory: RunDirectory,
    request: LoopRequest,
    before: DiagnosedRun,
    done: list[LoopRound],
    measure: Callable[..., DiagnosedRun],
) -> LoopResult:
    """Compare start and end, sample the final split once with `measure`, write the report."""
    if not done:
        return LoopResult(path=directory.path, before=before, rounds=(), transition=None, final=None)
    trained = tuple(dict.fromkeys(name for round_ in done for name in round_.trained))
    label = " → ".join(round_.stage for round_ in done)
    record, last = directory.read_json(), done[-1].after
    transition = compare_folders(before, last, trained=trained, stage=label)
    entry = RunEntry(
        path=str(directory.path),
        created=record["created"],
        command=record["command"] or "see run.json",
        versions=last.run.versions,
    )
    stages = ", ".join(f"{round_.stage} on {', '.join(round_.trained)}" for round_ in done)
    write_comparison(directory.path, transition, entry, record["settings"] | {"stage": stages})
    final = None
    held_out = [b for b in request.loaded if b.name in trained and b.split(Split.FINAL)]
    if held_out:
        sides = [
            measure(source, held_out, out=directory.path / folder, split=Split.FINAL)
            for source, folder in ((request.model, "final-0"), (done[-1].checkpoint, "final-1"))
        ]
        final = compare_folders(sides[0], sides[1], trained=trained, stage=label)
        write_comparison(
            directory.path / "final", final, entry.model_copy(update={"path": str(directory.path / "final")}), sides[1].settings
        )
    result = LoopResult(path=directory.path, before=before, rounds=tuple(done), transition=transition, final=final)
    write_json(directory.path / "loop.json", _summary(result))
    write_report(directory.path)
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
