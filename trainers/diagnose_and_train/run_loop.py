"""Run a loop round by round, or go on with the rounds that a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Unpack

from posttrain.analysis.number_format import format_interval
from posttrain.diagnose.comparison.loop_words import VERDICTS, end_words
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.pipeline.diagnose_run import run
from posttrain.diagnose.pipeline.pilot import refuse_stopped
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.output_folder import locked_folder
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior
from posttrain.trainers.diagnose_and_train.finish_loop import finish
from posttrain.trainers.diagnose_and_train.judge_round import judge_round
from posttrain.trainers.diagnose_and_train.loop_request import LoopOptions, LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopHistory, LoopResult, LoopRound, StageOutcome
from posttrain.trainers.diagnose_and_train.loop_steps import LoopSteps
from posttrain.trainers.diagnose_and_train.plan_round import RoundPlan, plan_round
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
    """Diagnose, train the named stage, measure again; for `rounds` at most. The same call resumes a loop that was stopped.

    It ends early when every target is mastered, two rounds in a row brought no gain, the budget is spent, or nothing that trains is left to
    run. A behavior that was fine and falls is answered with consolidation. The result names the checkpoint to keep.

    Args:
        model: A Hugging Face directory or id, a GGUF file, or `demo`.
        behaviors: What to measure; those with purpose `target` may be trained.
        out: Folder of the loop: `diagnosis-0`, `stage-1`, `diagnosis-1`, ..., `compare.json`, `report.html`.
        reporter: Where progress goes.
        options: The words of the command line: `rounds`, `stages`, `samples`, `precision`, `max_tokens_total`, `budget_tokens`,
            `probes`, `engine`, `config`, `overrides`, `retain`, `retention_weight`, `pilot`, `seed`, `command`; see `LoopRequest`.

    Raises:
        UserError: anything given is wrong.
    """

    def lead(processes: ProcessGroup) -> LoopResult:
        request = LoopRequest(model=str(model), behaviors=behaviors, out=Path(out), **options)
        check_engine(request.engine, processes.size)
        say = reporter or Reporter(quiet=True)
        measure = partial(run, **request.diagnose_options, reporter=say)
        train = partial(run_training, processes=processes, reporter=say)
        return run_rounds(request, LoopSteps(measure=measure, train=train), say)

    return rank_zero_first(lead)


def run_rounds(request: LoopRequest, steps: LoopSteps, reporter: Reporter) -> LoopResult:
    """Run a loop with these steps, or go on with it: what is decided depends on what they left on disk alone.

    Args:
        request: What the loop is asked for.
        steps: What measures and what trains.
        reporter: Where progress goes.

    Raises:
        RunError: The folder holds something else, or a loop with other settings; or another process writes there.
        UserError: A diagnosis or a stage cannot be made.
    """
    directory, settings = RunDirectory(request.out), request.settings()
    directory.check("loop", settings)
    with locked_folder(directory.path):
        created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        directory.open("loop", settings, {"model": {"source": request.model}, "command": request.command, "created": created})
        try:
            before = steps.measure(request.model, request.loaded, out=directory.path / "diagnosis-0", pilot=request.pilot)
        except UserError:
            directory.discard_if_empty()
            raise
        for diagnosis in before.diagnoses:
            reporter.say(diagnosis.sentence)
        if request.pilot:
            refuse_stopped(before)
        request = replace(request, behaviors=tuple(one.behavior for one in before.behaviors))  # with the limits that were found
        history = LoopHistory(model=request.model, before=before)
        while isinstance(plan := plan_round(request, history), RoundPlan):
            history.rounds.append(_run_round(request, plan, history, steps, reporter))
        words = end_words(plan, num_rounds=len(history.rounds), spent=history.cost.tokens, budget=request.budget_tokens)
        reporter.say(words)
        result = finish(directory, request, history, plan, steps)
        directory.finish()
    return result


def _run_round(request: LoopRequest, plan: RoundPlan, history: LoopHistory, steps: LoopSteps, reporter: Reporter) -> LoopRound:
    """Train the stage of a round, measure again, and judge."""
    choice, number = plan.choice, len(history.rounds) + 1
    reporter.say(f"round {number}: {_describe(plan, history)}")
    model = history.checkpoint(plan.started_from)
    at_start = None if plan.started_from == 0 else request.model
    earlier = at_start if choice.earlier is None else history.checkpoint(choice.earlier)
    checkpoint = request.out / f"stage-{number}"
    summary = train_round(checkpoint, choice, partial(make_train_request, request, plan, model, earlier), steps.train)
    after = steps.measure(
        checkpoint,
        request.loaded,
        out=request.out / f"diagnosis-{number}",
        pilot=False,
        earlier=request.model,
        before=history.before.path,
    )
    done = judge_round(history, plan, checkpoint, after, StageOutcome.of(summary), weight=request.retention_weight)
    said = ", ".join(
        f"{change.behavior} {format_interval(change.delta.estimate, change.delta.low, change.delta.high, signed=True)}"
        for change in done.changes
    )
    reporter.say(f"round {number} {VERDICTS[done.verdict]}: {said or 'nothing could be compared'}")
    return done


def _describe(plan: RoundPlan, history: LoopHistory) -> str:
    """Return the stage of a round, and why, in a few words."""
    choice = plan.choice
    words = f"{choice.stage} on {', '.join(choice.trained)}"
    if choice.earlier is not None:
        return f"{words}, which fell, from {history.checkpoint(choice.earlier)}"
    if choice.instead_of:
        return f"{words}, instead of {', '.join(choice.instead_of)}, which brought nothing"
    if plan.learning_rate is not None:
        return f"{words}, at the learning rate {plan.learning_rate:g}, since the model hardly moved"
    return words
