"""What is written when the last round is over: the comparison, loop.json, the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from posttrain.diagnose.comparison.loop_json import (
    KeepEntry,
    LabelChangeEntry,
    LoopBehaviorEntry,
    LoopEnd,
    LoopFile,
    LoopRoundEntry,
    RoundAdviceEntry,
    RoundChangeEntry,
    RoundCostEntry,
    RoundRateEntry,
    RoundRetentionEntry,
)
from posttrain.diagnose.comparison.loop_words import end_words
from posttrain.diagnose.comparison.transition import Transition
from posttrain.diagnose.engines.models.loading import fingerprint_model
from posttrain.diagnose.pipeline.compare_files import compare_folders, write_comparison
from posttrain.diagnose.report.report_files import write_report
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry, RunEntry
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Split
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopHistory, LoopResult, LoopRound
from posttrain.trainers.diagnose_and_train.loop_steps import LoopSteps
from posttrain.trainers.diagnose_and_train.round_verdict import LoopCost


def finish(directory: RunDirectory, request: LoopRequest, history: LoopHistory, ended: LoopEnd, steps: LoopSteps) -> LoopResult:
    """Compare the start with the checkpoint to keep, sample the final split once, write loop.json and the report.

    Args:
        directory: Folder of the loop.
        request: What was asked for.
        history: The rounds.
        ended: Why there is no further one.
        steps: What measures.
    """
    kept = history.best()
    transition, final = None, None
    shown = _compared(history, kept)
    if shown:
        transition, final = _compare(directory, request, history, shown, steps)
    write_model(directory.path / "loop.json", loop_file(request, history, ended))
    if transition is not None:
        write_report(directory.path)
    return LoopResult(
        path=directory.path,
        before=history.before,
        rounds=tuple(history.rounds),
        ended=ended,
        kept=history.rounds[kept - 1] if kept else None,
        transition=transition,
        final=final,
    )


def _compared(history: LoopHistory, kept: int) -> int:
    """Return the checkpoint that is compared with the start: the one to keep, else the last with other weights; 0 without one."""
    start = history.before.settings["model_fingerprint"]
    changed = [one.number for one in history.rounds if one.after.settings["model_fingerprint"] != start]
    return kept if kept in changed else max(changed, default=0)


def _compare(
    directory: RunDirectory, request: LoopRequest, history: LoopHistory, shown: int, steps: LoopSteps
) -> tuple[Transition, Transition | None]:
    """Compare the start with one checkpoint, on the eval split and on the final one."""
    path = [history.rounds[index - 1] for index in history.path(shown) if index]
    trained = tuple(dict.fromkeys(name for one in path for name in one.trained))
    label = " → ".join(one.stage for one in path)
    record, last = directory.read_json(), path[-1].after
    transition = compare_folders(history.before, last, trained=trained, stage=label)
    entry = RunEntry(
        path=str(directory.path),
        created=record["created"],
        command=record["command"] or "see run.json",
        versions=last.run.versions,
    )
    stages = ", ".join(f"{one.stage} on {', '.join(one.trained)}" for one in path)
    write_comparison(directory.path, transition, entry, record["settings"] | {"stage": stages})
    held_out = [b for b in request.loaded if b.name in trained and b.split(Split.FINAL)]
    if not held_out:
        return transition, None
    sides: list[DiagnosedRun] = [
        steps.measure(source, held_out, out=directory.path / folder, pilot=False, split=Split.FINAL)
        for source, folder in ((request.model, "final-0"), (path[-1].checkpoint, "final-1"))
    ]
    final = compare_folders(sides[0], sides[1], trained=trained, stage=label)
    write_comparison(
        directory.path / "final", final, entry.model_copy(update={"path": str(directory.path / "final")}), sides[1].settings
    )
    return transition, final


def loop_file(request: LoopRequest, history: LoopHistory, ended: LoopEnd) -> LoopFile:
    """Return what loop.json holds.

    Args:
        request: What was asked for.
        history: The rounds.
        ended: Why there is no further one.
    """
    kept, last = history.best(), history.run(len(history.rounds))
    return LoopFile(
        ended=ended,
        words=end_words(ended, num_rounds=len(history.rounds), spent=history.cost.tokens, budget=request.budget_tokens),
        keep=KeepEntry(round=kept, checkpoint=history.checkpoint(kept)),
        budget_tokens=request.budget_tokens,
        cost=_cost(history.cost),
        rounds=[_round_entry(one, history) for one in history.rounds],
        behaviors=_rates(history),
        bottlenecks={
            one.name: LabelChangeEntry(before=one.bottleneck, after=last[one.name].diagnosis.bottleneck)
            for one in history.before.diagnoses
        },
    )


def _round_entry(done: LoopRound, history: LoopHistory) -> LoopRoundEntry:
    choice = done.choice
    return LoopRoundEntry(
        number=done.number,
        stage=done.stage,
        trained=done.trained,
        started_from=done.started_from,
        checkpoint=str(done.checkpoint),
        fingerprint=fingerprint_model(done.checkpoint),
        reason=choice.reason,
        instead_of=choice.instead_of,
        earlier=None if choice.earlier is None else history.checkpoint(choice.earlier),
        advice=[RoundAdviceEntry.model_validate(one) for one in choice.advice],
        changes=[RoundChangeEntry.model_validate(one) for one in done.changes],
        cost=_cost(done.cost),
        retention=RoundRetentionEntry.model_validate(done.outcome.retention),
        moved=done.outcome.moved,
        learning_rate=done.outcome.learning_rate,
        verdict=done.verdict,
        utility=EstimateEntry.model_validate(done.utility),
    )


def _cost(cost: LoopCost) -> RoundCostEntry:
    return RoundCostEntry.model_validate(cost)


def _rates(history: LoopHistory) -> Sequence[LoopBehaviorEntry]:
    """Return pass@1 of each behavior at the start and after each round."""
    return [
        LoopBehaviorEntry(
            name=one.name,
            purpose=one.purpose,
            pass_at_1=[
                RoundRateEntry(round=index, **asdict(point.value))
                for index in range(len(history.rounds) + 1)
                for point in history.run(index)[one.name].diagnosis.pass_at_k
                if point.k == 1
            ],
        )
        for one in history.before.diagnoses
    ]
