"""kto: make good answers likelier and bad ones less so, each by itself.

Sampled: nothing where labelled answers (or pairs) are given with `--data`; else as dpo, and every right and wrong sample stands alone.
Credit: each answer is compared with the reference point z, how far the policy has moved from its start on answers of other prompts.
Loss: w (1 − σ(±β(Δ − z))), averaged over answers.
Paper: arXiv 2402.01306.
No learning signal when answers are far above or far below z. Rows that all have the same prompt are refused: z cannot be told from them.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from posttrain.diagnose.errors import BehaviorError
from posttrain.trainers.config import PairConfig
from posttrain.trainers.credit.reference_point import ReferencePoint
from posttrain.trainers.objectives.preferences import Kto
from posttrain.trainers.objectives.reductions import row_mean
from posttrain.trainers.recipes.blocks import preference_pairs
from posttrain.trainers.sources.prepared import Made, PreparedRows, fixed
from posttrain.trainers.sources.verified import mismatched
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material, RowRole, TrainingRow


class KtoConfig(PairConfig):
    """Settings of `kto`."""

    rows_per_batch: int = Field(default=16, ge=2)
    """Answers in one optimizer batch."""
    beta: float = Field(default=0.1, gt=0)
    """How far the policy may go. KTO: 0.1."""
    good_weight: float = Field(default=1.0, gt=0)
    """Of good answers. KTO: so that weight × number is alike within 1..4/3."""
    bad_weight: float = Field(default=1.0, gt=0)
    """Of bad answers."""


def build(inputs: TrainingInputs, config: KtoConfig) -> Stage:
    """Build the stage.

    Raises:
        BehaviorError: All rows, or all train problems, have the same prompt (`one_prompt`).
    """
    labelled = [row for row in inputs.data if row.role in (RowRole.CHOSEN, RowRole.REJECTED)]
    make = fixed(labelled) if labelled else preference_pairs(inputs, config)
    if inputs.data:
        _refuse_one_prompt(make()[0])
    elif len({item.problem.key for item in inputs.training_set.train}) == 1:
        raise _one_prompt("one train problem")

    def make_checked() -> Made:
        rows, metrics = make()
        _refuse_one_prompt(rows)
        return rows, metrics

    source = PreparedRows(make_checked, config, also=lambda rows: inputs.lengths.within(mismatched(rows)))
    term = Kto(beta=config.beta, good_weight=config.good_weight, bad_weight=config.bad_weight)
    return Stage(source=source, credit=ReferencePoint(), components=(Component(term=term, reduction=row_mean),))


def _refuse_one_prompt(rows: Sequence[TrainingRow]) -> None:
    """Refuse rows from which the reference point cannot be told; it would be 0 at every step.

    TRL's would be the mean gain of the answers themselves there, for it puts each behind the prompt of another row.
    """
    if len({row.prompt_ids for row in rows}) == 1:
        raise _one_prompt(f"{len(rows)} answers to one prompt")


def _one_prompt(got: str) -> BehaviorError:
    return BehaviorError(
        f"kto: got {got}, and its reference point comes from answers behind the prompts of others; give rows of two prompts at least, or pairs to dpo",
        code="one_prompt",
    )


KTO = Recipe(name="kto", config=KtoConfig, build=build, reads=frozenset({Material.LABELS, Material.PAIRS, Material.SAMPLES}))
