"""What a run costs, in forward passes of one token, and how many steps that allows.

A generated or scored token counts 1, a trained one 3 (forward, and twice that backward). A few steps of a stage are tried first, and from what
they cost follows the number of steps that a budget allows.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain import trainers
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.trainers.config import RolloutConfig, StudentConfig
from posttrain.trainers.recipes.registry import RECIPES

TRAINED, GENERATED, SCORED = 3, 1, 1
"""Forward passes of a token."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Tokens of a run."""

    trained: int = 0
    generated: int = 0
    scored: int = 0

    @property
    def passes(self) -> int:
        """Forward passes of one token."""
        return TRAINED * self.trained + GENERATED * self.generated + SCORED * self.scored

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            trained=self.trained + other.trained,
            generated=self.generated + other.generated,
            scored=self.scored + other.scored,
        )

    def to_json(self) -> dict[str, int]:
        return {"trained": self.trained, "generated": self.generated, "scored": self.scored, "passes": self.passes}


def steps_for(budget: float, *, fixed: float, tried: float, num_tried: int, most: int | None) -> int:
    """Return how many steps fit a budget.

    Args:
        budget: Passes that may be spent.
        fixed: What is spent before the first step.
        tried: What the steps that were tried cost.
        num_tried: How many these were.
        most: An upper limit.
    """
    steps = int((budget - fixed) / max(tried / num_tried, 1.0))
    return max(1, steps if most is None else min(steps, most))


MOST_STEPS, MOST_SAMPLED = 90, 60
"""Steps at most: a few references, dealt out in small batches, would be repeated hundreds of times; a stage that samples in every step would, without
signal, only go on sampling."""
SETTINGS = ("autocast=float32",)
"""Of every stage of a tiny model, beside the number of steps: for models of this size bfloat16 takes twice as long."""


def cost_of(stage: str, result: trainers.TrainingResult) -> Cost:
    """Return what a run cost.

    A teacher, or the model itself behind a scaffold, reads every token that is trained on for stages that learn from its distribution.
    """
    scores = stage == "self_distill" or (Need.TEACHER in STAGES[stage].needs and Need.VERIFIER not in STAGES[stage].needs)
    return Cost(
        trained=result.trained_tokens,
        generated=result.generated_tokens + result.choice_tokens,
        scored=result.trained_tokens if scores else 0,
    )


def steps_within(
    budget: float,
    stage: str,
    model: str | Path,
    behavior: str | Path,
    given: Mapping[str, Any],
    settings: Sequence[str] = SETTINGS,
) -> int:
    """Try a few steps of a stage, and return how many cost what may be spent.

    Args:
        budget: In forward passes of one token.
        stage: Its name.
        model: Where it starts.
        behavior: What it trains on.
        given: Further arguments of `trainers.train`, such as a teacher.
        settings: Of the stage, as `NAME=VALUE`.
    """
    samples = issubclass(RECIPES[stage].config, RolloutConfig | StudentConfig) and stage != "self_distill"
    num_tried = 6 if samples else 2
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tried"
        result = trainers.train(
            stage, model, [behavior], out=out, overrides=[f"num_steps={num_tried}", *settings], seed=0, **given
        )
        fixed = _prepared_tokens(result.log) + result.choice_tokens
    tried = cost_of(stage, result).passes - GENERATED * fixed
    return steps_for(
        budget, fixed=GENERATED * fixed, tried=tried, num_tried=num_tried, most=MOST_SAMPLED if samples else MOST_STEPS
    )


def _prepared_tokens(log: Path) -> int:
    """Return how many tokens were sampled before the first step."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return sum(int(event.get("generated_tokens", 0)) for event in events if event["event"] == "prepared")
