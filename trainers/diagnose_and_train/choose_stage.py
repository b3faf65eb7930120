"""Which stage a round runs, and on which behaviors: what the diagnosis names, or the next alternative that is not tried yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from posttrain.diagnose.comparison.loop_json import LoopEnd, StageOrigin
from posttrain.diagnose.stage_catalogue import STAGES, Need, available_needs, trainable_needs
from posttrain.diagnose.types import Behavior, Bottleneck, Diagnosis, Estimate, Purpose, Split, StageAdvice
from posttrain.trainers.recipes.registry import RECIPES

MOST_TRIES = 2
"""Rounds without a gain after which a stage is not run on a behavior again."""
CONSOLIDATION = tuple(name for name in RECIPES if Need.EARLIER_CHECKPOINT in STAGES[name].needs)
"""Stages that bring back what an earlier checkpoint had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundAdvice:
    """What the diagnosis before a round says of a behavior that the round is trained on."""

    behavior: str
    bottleneck: Bottleneck
    leans_to: Bottleneck | None
    """The most probable label where it is `inconclusive`."""
    confidence: float
    stage: str | None
    """The stage that it names."""
    predicted_gain: Estimate | None
    """Of pass@1, where the advice has one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageChoice:
    """The stage of a round."""

    stage: str
    trained: tuple[str, ...]
    """Names of the behaviors to train on."""
    reason: StageOrigin
    instead_of: tuple[str, ...] = ()
    """Stages that come first in the advice and were tried without a gain."""
    earlier: int | None = None
    """The checkpoint before the fall, where the round consolidates."""
    advice: tuple[RoundAdvice, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Tries:
    """What was run already."""

    without_gain: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(stage, behavior) → rounds that moved the model and brought this behavior no gain."""
    from_here: frozenset[tuple[str, str]] = frozenset()
    """(stage, behavior) that were run from the checkpoint that the next round starts from: they would give equal weights."""

    def are_spent(self, stage: str, behavior: str) -> bool:
        """Return whether a stage is not to be run on a behavior again."""
        return (stage, behavior) in self.from_here or self.without_gain.get((stage, behavior), 0) >= MOST_TRIES


def choose_stage(
    diagnoses: Mapping[str, Diagnosis], behaviors: Sequence[Behavior], tries: Tries, *, earlier: bool = False
) -> StageChoice | LoopEnd:
    """Return the stage that most target behaviors name, or why there is none.

    For each behavior that is the stage that its diagnosis names; where that was tried without a gain, the first alternative that can run. Of
    equals one with a verifier, which needs no further data.

    Args:
        diagnoses: By behavior.
        behaviors: All that are measured.
        tries: What was run already.
        earlier: Whether there is a checkpoint from before.
    """
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    is_exhausted = False
    for behavior in behaviors:
        advice = diagnoses[behavior.name].stage
        if behavior.purpose is not Purpose.TARGET or advice is None or advice.name not in RECIPES:
            continue
        if not behavior.split(Split.TRAIN):
            continue
        stage, passed = _first_untried(_candidates(advice), behavior, tries, earlier=earlier)
        if stage is None:
            is_exhausted = True
        else:
            found.setdefault(stage, []).append((behavior.name, passed))
    if not found:
        return LoopEnd.STAGES_EXHAUSTED if is_exhausted else LoopEnd.NOTHING_TO_TRAIN
    best = max(found, key=lambda name: (len(found[name]), Need.VERIFIER in STAGES[name].needs))
    names = tuple(name for name, _ in found[best])
    passed_over = tuple(dict.fromkeys(stage for _, passed in found[best] for stage in passed))
    return StageChoice(
        stage=best,
        trained=names,
        reason=StageOrigin.ALTERNATIVE if passed_over else StageOrigin.NAMED,
        instead_of=passed_over,
        advice=advice_for(diagnoses, names),
    )


def choose_consolidation(
    diagnoses: Mapping[str, Diagnosis], behaviors: Sequence[Behavior], tries: Tries, fallen: Mapping[str, int]
) -> StageChoice | None:
    """Return the stage that brings back what fell: the one that a diagnosis of attrition names, else one that replays; None where none can run.

    Args:
        diagnoses: By behavior, of the checkpoint at which they have fallen.
        behaviors: All that are measured.
        tries: What was run already.
        fallen: Name of each behavior that fell → the checkpoint before its fall.
    """
    found: dict[tuple[str, int], list[str]] = {}
    for behavior in behaviors:
        if behavior.name not in fallen or not behavior.split(Split.TRAIN):
            continue
        diagnosis = diagnoses[behavior.name]
        named = _candidates(diagnosis.stage) if diagnosis.bottleneck is Bottleneck.ATTRITION and diagnosis.stage else []
        stage, _ = _first_untried([*named, *CONSOLIDATION], behavior, tries, earlier=True)
        if stage is not None:
            found.setdefault((stage, fallen[behavior.name]), []).append(behavior.name)
    if not found:
        return None
    stage, earlier = max(found, key=lambda key: len(found[key]))
    names = tuple(found[stage, earlier])
    return StageChoice(
        stage=stage, trained=names, reason=StageOrigin.CONSOLIDATION, earlier=earlier, advice=advice_for(diagnoses, names)
    )


def advice_for(diagnoses: Mapping[str, Diagnosis], names: Iterable[str]) -> tuple[RoundAdvice, ...]:
    """Return what the diagnoses of some behaviors say."""
    chosen = [diagnoses[name] for name in names]
    return tuple(
        RoundAdvice(
            behavior=one.name,
            bottleneck=one.bottleneck,
            leans_to=one.leans_to,
            confidence=one.confidence,
            stage=None if one.stage is None else one.stage.name,
            predicted_gain=None if one.stage is None else one.stage.predicted_gain,
        )
        for one in chosen
    )


def _candidates(advice: StageAdvice) -> list[str]:
    """Return the named stage and its alternatives, as far as they train."""
    return [name for name in (advice.name, *(name for name, _ in advice.alternatives)) if name in RECIPES]


def _first_untried(
    candidates: Sequence[str], behavior: Behavior, tries: Tries, *, earlier: bool
) -> tuple[str | None, tuple[str, ...]]:
    """Return the first stage that has what it needs and is not spent, and those that are and come before it."""
    offered = trainable_needs(available_needs(behavior, earlier=earlier), data=False)
    spent: list[str] = []
    for name in dict.fromkeys(candidates):
        if not set(STAGES[name].needs) <= offered:
            continue
        if not tries.are_spent(name, behavior.name):
            return name, tuple(spent)
        spent.append(name)
    return None, tuple(spent)
