"""Run a loop round by round; a folder that holds a part of it is gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.pipeline.diagnose_run import run
from posttrain.diagnose.pipeline.pilot import refuse_stopped
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior
from posttrain.trainers.diagnose_and_train.choose_stage import choose_stage
from posttrain.trainers.diagnose_and_train.finish_loop import finish
from posttrain.trainers.diagnose_and_train.loop_request import LoopOptions, LoopRequest, trainable_names
from posttrain.trainers.diagnose_and_train.loop_result import LoopResult, LoopRound
from posttrain.trainers.diagnose_and_train.train_round import make_train_request, train_round
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.rollouts.live_engines import check_engine
from posttrain.trainers.train_stage import rank_zero_first, run_training


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
    train = partial(run_training, processes=processes, reporter=reporter)
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
            chosen: tuple[str, tuple[str, ...]] | None = (stage, trainable_names(request.loaded, stage))
        else:
            chosen = choose_stage(last, request.loaded)
        if chosen is None:
            reporter.say("No diagnosis names a stage that trains: nothing to run.")
            break
        stage, names = chosen
        checkpoint = directory.path / f"stage-{number}"
        reporter.say(f"round {number}: {stage} on {', '.join(names)}")
        train_round(checkpoint, partial(make_train_request, request, stage, names, model), train)
        last = measure(
            checkpoint, request.loaded, out=directory.path / f"diagnosis-{number}", earlier=request.model, before=before.path
        )
        done.append(LoopRound(stage=stage, trained=names, checkpoint=checkpoint, after=last))
        model = str(checkpoint)
    result = finish(directory, request, before, done, measure)
    directory.finish()
    return result
