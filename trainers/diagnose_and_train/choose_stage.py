"""Which stage a round runs, and on which behaviors."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Behavior, Purpose, Split
from posttrain.trainers.recipes.registry import RECIPES


def choose_stage(run_: DiagnosedRun, behaviors: Sequence[Behavior]) -> tuple[str, tuple[str, ...]] | None:
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
