"""reward_model: learn from pairs what a good answer is, as one number.

Sampled: as dpo.
Credit: none.
Loss: −log σ(r(w) − r(l) − m), r the scalar head behind the last token, m the column `margin` of `--data` (else 0), averaged over pairs. The checkpoint is a sequence classifier with one label
(`AutoModelForSequenceClassification`), which a behavior may name as its verifier: {kind: reward_model, model: FOLDER}.
Papers: arXiv 2203.02155; centering: 2312.09244; margins: 2307.09288.
No learning signal when pairs are told apart already. What is not in the pairs is not judged.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from posttrain.trainers.config import PairConfig
from posttrain.trainers.learning_rate import RateKind
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.objectives.reductions import row_mean
from posttrain.trainers.objectives.reward_modelling import BradleyTerry
from posttrain.trainers.recipes.blocks import preference_pairs, repeat_last_token
from posttrain.trainers.sources.prepared import PreparedRows, change_rows
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class RewardModelConfig(PairConfig):
    """Settings of `reward_model`."""

    rate_kind: ClassVar[RateKind] = RateKind.JUDGE
    centering: float = Field(default=0.01, ge=0)
    """Weight of (r(w) + r(l))², which keeps rewards near 0. Paper: 0.01."""


def build(inputs: TrainingInputs, config: RewardModelConfig) -> Stage:
    """Build the stage."""
    head = scalar_head(inputs.model, bias=False)  # a margin does not depend on the bias
    pairs = change_rows(preference_pairs(inputs, config), repeat_last_token)
    return Stage(
        source=PreparedRows(pairs, config, rows_per_item=2),
        components=(Component(term=BradleyTerry(centering=config.centering), reduction=row_mean),),
        scalar_head=head,
    )


REWARD_MODEL = Recipe(
    name="reward_model",
    config=RewardModelConfig,
    build=build,
    saves="reward_model",
    reads=frozenset({Material.PAIRS, Material.SAMPLES}),
    reads_margins=True,
)
