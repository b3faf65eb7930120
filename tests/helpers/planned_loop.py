"""A loop that is only planned: diagnoses follow from success rates, and changes are known to ±.05, so that nothing is sampled or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from posttrain.diagnose.comparison.loop_json import LoopEnd
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.types import Behavior, Bottleneck, Cost, Diagnosis, Estimate, PassAtK, StageAdvice
from posttrain.trainers.diagnose_and_train.judge_round import judge_round
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopHistory, StageOutcome
from posttrain.trainers.diagnose_and_train.plan_round import RoundPlan, plan_round
from posttrain.trainers.diagnose_and_train.round_verdict import LoopCost
from posttrain.trainers.training.result import Ending

Rates = Mapping[str, float]
"""Behavior → its success rate."""
HALF_WIDTH = 0.05
"""Of the interval of a paired change."""
INVALID = 0.77
"""A rate that is measured wrongly."""
ROUTES: dict[Bottleneck, tuple[str, ...]] = {
    Bottleneck.MISSING_SUPPORT: ("sft", "luffy"),
    Bottleneck.POOR_CHOICE: ("grpo", "rft"),
    Bottleneck.MASTERED: ("none",),
    Bottleneck.INVALID: ("fix_setup",),
}
"""The stage that is named, and its alternatives."""
DIAGNOSIS_TOKENS = 1_000
STAGE_TOKENS = 500
LEARNING_RATE = 1e-3


def diagnosed(index: int, rates: Rates, behaviors: Sequence[Behavior]) -> DiagnosedRun:
    """Return a diagnosis of these rates, without samples."""
    return DiagnosedRun(
        path=Path(f"diagnosis-{index}"),
        run=RunEntry(),
        model={},
        settings={"model_fingerprint": str(index)},
        behaviors=tuple(_diagnosed_behavior(one, rates[one.name], len(behaviors)) for one in behaviors),
    )


def _label(rate: float) -> Bottleneck:
    if rate == INVALID:
        return Bottleneck.INVALID
    return Bottleneck.MASTERED if rate >= 0.9 else Bottleneck.POOR_CHOICE if rate >= 0.01 else Bottleneck.MISSING_SUPPORT


def _advice(label: Bottleneck) -> StageAdvice:
    name, *others = ROUTES[label]
    return StageAdvice(
        name=name, provenance="", interface="", why="", needs=(), alternatives=tuple((other, "") for other in others)
    )


def _diagnosed_behavior(behavior: Behavior, rate: float, num: int) -> DiagnosedBehavior:
    label = _label(rate)
    known = Estimate(estimate=rate, low=rate, high=rate, method="known")
    nothing = cast(Any, None)
    diagnosis = Diagnosis(
        name=behavior.name,
        purpose=behavior.purpose,
        bottleneck=label,
        confidence=1.0,
        stage=_advice(label),
        checks=(),
        pass_at_k=(PassAtK(k=1, value=known, extrapolated=False),),
        cost=Cost(generated_tokens=DIAGNOSIS_TOKENS // num),
        caveats=(),
        sentence="",
    )
    return DiagnosedBehavior(
        behavior=behavior,
        problems=(),
        diagnosis=diagnosis,
        sampling=nothing,
        plan=nothing,
        validity=nothing,
        likelihood=None,
        answers=(),
        table=nothing,
        paths=(),
    )


def known_change(before: DiagnosedBehavior, after: DiagnosedBehavior) -> Estimate:
    """Return the difference of the rates, ±.05."""
    first, last = (one.diagnosis.pass_at_k[0].value.estimate for one in (before, after))
    return Estimate(estimate=last - first, low=last - first - HALF_WIDTH, high=last - first + HALF_WIDTH, method="known")


def play(request: LoopRequest, start: Rates, train: Callable[[RoundPlan, Rates], Rates | Ending]) -> tuple[LoopHistory, LoopEnd]:
    """Plan and judge rounds until the loop ends.

    Args:
        request: What the loop is asked for.
        start: Rates of the model that it starts with.
        train: Takes a round and the rates that it starts from, and returns those that it changes; or its ending, where the model hardly moved.
    """
    history = LoopHistory(model="start", before=diagnosed(0, start, request.loaded), compare=known_change)
    rates: list[Rates] = [start]
    while isinstance(plan := plan_round(request, history), RoundPlan):
        number, before = len(history.rounds) + 1, rates[plan.started_from]
        changed = train(plan, before)
        moved = not isinstance(changed, Ending)
        rates.append(before if isinstance(changed, Ending) else {**before, **changed})
        after = diagnosed(number, rates[-1], request.loaded)
        checkpoint = Path(f"stage-{number}")
        outcome = StageOutcome(
            moved=moved,
            ending=changed if isinstance(changed, Ending) else Ending.FINISHED,
            learning_rate=None if changed is Ending.NOTHING_TO_LEARN else plan.learning_rate or LEARNING_RATE,
            cost=LoopCost(trained_tokens=STAGE_TOKENS),
        )
        history.rounds.append(judge_round(history, plan, checkpoint, after, outcome, weight=request.retention_weight))
    return history, plan
