"""What a finished round came to, beside the rounds before it."""

from __future__ import annotations

from pathlib import Path

from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.trainers.diagnose_and_train.loop_result import LoopHistory, LoopRound, StageOutcome, diagnosis_cost, is_unusable
from posttrain.trainers.diagnose_and_train.plan_round import RoundPlan
from posttrain.trainers.diagnose_and_train.round_verdict import RoundChange, round_verdict, utility


def judge_round(
    history: LoopHistory, plan: RoundPlan, checkpoint: Path, after: DiagnosedRun, outcome: StageOutcome, *, weight: float = 1.0
) -> LoopRound:
    """Return a finished round with its paired changes, its verdict and its cost.

    Args:
        history: The rounds before it.
        plan: What it did.
        checkpoint: What it trained.
        after: The diagnosis of that.
        outcome: What training did.
        weight: λ, of a fall of the retention behaviors.
    """
    changes = _changes(history, plan, after)
    return LoopRound(
        number=len(history.rounds) + 1,
        choice=plan.choice,
        started_from=plan.started_from,
        checkpoint=checkpoint,
        after=after,
        changes=changes,
        outcome=outcome,
        verdict=round_verdict(changes, moved=outcome.moved, weight=weight),
        utility=utility(changes, lambda change: change.since_start, weight),
        cost=outcome.cost + diagnosis_cost(after),
    )


def _changes(history: LoopHistory, plan: RoundPlan, after: DiagnosedRun) -> tuple[RoundChange, ...]:
    """Return the paired changes of all behaviors that have samples before and after.

    Numbers of a retention behavior whose first measurement is invalid are not believed, and left out. Where a measurement becomes invalid later,
    training made it so, and the fall counts.
    """
    found = []
    for one in history.before.behaviors:
        name = one.behavior.name
        if is_unusable(one):
            continue
        delta = history.change(name, history.run(plan.started_from), after)
        since_start = history.change(name, history.before, after)
        if delta is not None and since_start is not None:
            trained = name in plan.choice.trained
            found.append(
                RoundChange(behavior=name, purpose=one.behavior.purpose, trained=trained, delta=delta, since_start=since_start)
            )
    return tuple(found)
