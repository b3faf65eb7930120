"""A loop that is only planned: diagnoses follow from success rates, and changes are known to ±.05, so that nothing is sampled or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from posttrain.diagnose.comparison.loop_json import LoopEnd
from posttrain.diagnose.decide.routes import name_stage
from posttrain.diagnose.stage_catalogue import available_needs
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.types import Behavior, Bottleneck, Cost, Diagnosis, Estimate, PassAtK
from posttrain.trainers.diagnose_and_train.judge_round import judge_round
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopHistory
from posttrain.trainers.diagnose_and_train.plan_round import RoundPlan, plan_round
from posttrain.trainers.diagnose_and_train.round_verdict import LoopCost

Rates = Mapping[str, float]
"""Behavior → its success rate."""
HALF_WIDTH = 0.05
"""Of the interval of a paired change."""
INVALID = 0.77
"""A rate that is measured wrongly."""
DIAGNOSIS_TOKENS = 1_000
STAGE_TOKENS = 500


def diagnosed(index: int, rates: Rates, behaviors: Sequence[Behavior]) -> DiagnosedRun:
    """Return a diagnosis of these rates, without samples."""
    return DiagnosedRun(
        path=Path(f"diagnosis-{index}"),
        run=RunEntry(),
        model={},
        settings={"model_fingerprint": str(index)},
        behaviors=tuple(_diagnosed_behavior(one, rates[one.name], len(behaviors), earlier=index > 0) for one in behaviors),
    )


def _label(rate: float) -> Bottleneck:
    if rate == INVALID:
        return Bottleneck.INVALID
    return Bottleneck.MASTERED if rate >= 0.9 else Bottleneck.POOR_CHOICE if rate >= 0.01 else Bottleneck.MISSING_SUPPORT


def _diagnosed_behavior(behavior: Behavior, rate: float, num: int, *, earlier: bool) -> DiagnosedBehavior:
    label = _label(rate)
    known = Estimate(estimate=rate, low=rate, high=rate, method="known")
    nothing = cast(Any, None)
    diagnosis = Diagnosis(
        name=behavior.name,
        purpose=behavior.purpose,
        bottleneck=label,
        confidence=1.0,
        stage=name_stage(label, available_needs(behavior, earlier=earlier)),
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


def play(request: LoopRequest, start: Rates, train: Callable[[RoundPlan, Rates], Rates | None]) -> tuple[LoopHistory, LoopEnd]:
    """Plan and judge rounds until the loop ends.

    Args:
        request: What the loop is asked for.
        start: Rates of the model that it starts with.
        train: Takes a round and the rates that it starts from, and returns those that it changes; None where the model hardly moved.
    """
    history = LoopHistory(model="start", before=diagnosed(0, start, request.loaded), compare=known_change)
    rates: list[Rates] = [start]
    while isinstance(plan := plan_round(request, history), RoundPlan):
        number, before = len(history.rounds) + 1, rates[plan.started_from]
        changed = train(plan, before)
        rates.append({**before, **(changed or {})})
        after, cost = diagnosed(number, rates[-1], request.loaded), LoopCost(trained_tokens=STAGE_TOKENS)
        checkpoint = Path(f"stage-{number}")
        history.rounds.append(judge_round(history, plan, checkpoint, after, moved=changed is not None, stage_cost=cost))
    return history, plan
