"""What the next round does, or why there is none: a function of what the rounds before left on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from posttrain.diagnose.comparison.loop_json import LoopEnd, RoundVerdict, StageOrigin
from posttrain.diagnose.types import Bottleneck, Diagnosis, Purpose
from posttrain.trainers.diagnose_and_train.choose_stage import (
    StageChoice,
    Tries,
    advice_for,
    choose_consolidation,
    choose_stage,
)
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest, setting_of, trainable_names
from posttrain.trainers.diagnose_and_train.loop_result import LoopHistory, diagnosis_cost, is_unusable
from posttrain.trainers.diagnose_and_train.round_verdict import fell, rose
from posttrain.trainers.training.result import Ending

MOST_WITHOUT_GAIN = 2
"""Rounds in a row without a gain after which a loop ends."""


RATE_FACTOR = 4.0
"""By how much the learning rate rises after a round whose steps hardly moved the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundPlan:
    """The next round."""

    choice: StageChoice
    started_from: int
    """The checkpoint that it starts from; 0 is the model that the loop started with."""
    learning_rate: float | None = None
    """In place of the stage's own, where the round before hardly moved the model."""


def plan_round(request: LoopRequest, history: LoopHistory) -> RoundPlan | LoopEnd:
    """Return the next round, or why the loop ends.

    Args:
        request: What the loop is asked for.
        history: The rounds so far.
    """
    plan = _given_round(request, history) if request.stages else _named_round(request, history)
    if isinstance(plan, LoopEnd):
        return plan
    if len(history.rounds) >= request.num_rounds:
        return LoopEnd.ROUNDS_DONE
    if request.budget_tokens is not None and history.cost.tokens + expected_tokens(history, plan) > request.budget_tokens:
        return LoopEnd.BUDGET_SPENT
    return plan


def expected_tokens(history: LoopHistory, plan: RoundPlan) -> int:
    """Return the tokens that a round is expected to take: those of the last diagnosis, and those that its stage took the last time."""
    same = [one for one in history.rounds if one.stage == plan.choice.stage]
    if same:
        return same[-1].cost.tokens
    return diagnosis_cost(history.run(len(history.rounds))).tokens


def find_fallen(history: LoopHistory, at: int) -> dict[str, int]:
    """Return the behaviors that were fine and have surely fallen, each with the checkpoint before its fall.

    Fine are retention behaviors at the start, and targets from the first checkpoint on at which they are mastered.

    Args:
        history: The rounds so far.
        at: The checkpoint in question.
    """
    path, fallen = history.path(at), {}
    for behavior in history.before.behaviors:
        name = behavior.behavior.name
        if is_unusable(behavior):
            continue
        if behavior.behavior.purpose is Purpose.RETENTION:
            fine_from = 0
        else:
            mastered = (i for i, one in enumerate(path) if history.run(one)[name].diagnosis.bottleneck is Bottleneck.MASTERED)
            fine_from = next(mastered, len(path))
        since = path[fine_from:]
        has_fallen = [one for one in since[1:] if fell(history.change(name, history.run(since[0]), history.run(one)))]
        if at in has_fallen:
            fallen[name] = [one for one in since if one not in has_fallen][-1]
    return fallen


def count_tries(history: LoopHistory, here: int) -> Tries:
    """Return what was run already.

    Args:
        history: The rounds so far; those that hardly moved the model count as repetitions from their own start alone.
        here: The checkpoint that the next round starts from.
    """
    without_gain: Counter[tuple[str, str]] = Counter()
    for one in history.rounds:
        risen = {change.behavior for change in one.changes if rose(change.delta)}
        if one.verdict is not RoundVerdict.HARDLY_MOVED:
            without_gain.update((one.stage, name) for name in one.trained if name not in risen)
    again = {
        (one.stage, name)
        for one in history.rounds
        if one.started_from == here or (one.number == here and one.outcome.ending is Ending.NOTHING_TO_LEARN)
        for name in one.trained
    }
    return Tries(without_gain=without_gain, from_here=frozenset(again))


def _given_round(request: LoopRequest, history: LoopHistory) -> RoundPlan | LoopEnd:
    """Return the round of a stage that the user named."""
    here = len(history.rounds)
    if here >= len(request.stages):
        return LoopEnd.ROUNDS_DONE
    stage = request.stages[here]
    names = trainable_names(request.loaded, stage)
    advice = advice_for(_diagnoses(history, here), names)
    return RoundPlan(choice=StageChoice(stage=stage, trained=names, reason=StageOrigin.GIVEN, advice=advice), started_from=here)


def _named_round(request: LoopRequest, history: LoopHistory) -> RoundPlan | LoopEnd:
    """Return the round that the diagnoses name."""
    here = len(history.rounds)
    fallen = find_fallen(history, here)
    choice = choose_consolidation(_diagnoses(history, here), request.loaded, count_tries(history, here), fallen)
    if choice is None and here and history.rounds[-1].verdict is RoundVerdict.COST_MORE:
        here = history.best()
    diagnoses = _diagnoses(history, here)
    labels = [one.bottleneck for one in diagnoses.values() if one.purpose is Purpose.TARGET]
    if choice is None and labels and set(labels) == {Bottleneck.MASTERED}:
        return LoopEnd.MASTERED
    last = history.rounds[-MOST_WITHOUT_GAIN:]
    if len(last) == MOST_WITHOUT_GAIN and not any(one.gained for one in last):
        return LoopEnd.NO_GAIN
    if choice is None:
        named = choose_stage(diagnoses, request.loaded, count_tries(history, here), earlier=here > 0)
        if isinstance(named, LoopEnd):
            return named
        choice = named
    return RoundPlan(choice=choice, started_from=here, learning_rate=_raised_rate(request, history, choice, here))


def _raised_rate(request: LoopRequest, history: LoopHistory, choice: StageChoice, here: int) -> float | None:
    """Return a learning rate for a stage that took steps and hardly moved the model, and is run once more; None where the user gave one."""
    before = history.rounds[-1] if history.rounds and here == len(history.rounds) else None
    is_given = request.config is not None or any(setting_of(text) == "learning_rate" for text in request.overrides)
    if before is None or before.verdict is not RoundVerdict.HARDLY_MOVED or before.stage != choice.stage or is_given:
        return None
    rate = before.outcome.learning_rate
    return None if rate is None or before.outcome.ending is Ending.NOTHING_TO_LEARN else RATE_FACTOR * rate


def _diagnoses(history: LoopHistory, index: int) -> dict[str, Diagnosis]:
    return {diagnosis.name: diagnosis for diagnosis in history.run(index).diagnoses}
