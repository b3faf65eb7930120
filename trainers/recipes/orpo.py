"""orpo: imitate the better answer, and hold its odds above those of the worse one.

As sft on the better answers, with a term on the pairs: NLL − λ log σ(log odds(w) − log odds(l)), odds = p/(1 − p), p the geometric mean of the
tokens' probabilities. No reference model. Paper: arXiv 2403.07691.
The pairs' signal vanishes where the odds are far apart already; the NLL goes on as sft's does, and expands as it does. Provenance off-policy,
interface preferences, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.preferences import OddsRatio
from posttrain.trainers.objectives.reductions import row_mean, token_mean
from posttrain.trainers.recipes.dpo import PairConfig, pairs
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material, RowRole


class OrpoConfig(PairConfig):
    """Knobs of `orpo`."""

    learning_rate: float = Field(default=8e-6, gt=0, description="Peak. ORPO: 8e-6.")
    odds_weight: float = Field(default=0.1, gt=0, description="λ, weight of the odds ratio beside the NLL. ORPO: 0.1.")


def build(inputs: TrainingInputs, config: OrpoConfig) -> Stage:
    """Put the stage together."""
    return Stage(
        source=pairs(inputs, config, "orpo"),
        credit=NoCredit(),
        components=(
            Component(term=Nll(), reduction=token_mean, roles=frozenset({RowRole.CHOSEN})),
            Component(term=OddsRatio(), reduction=row_mean, weight=config.odds_weight),
        ),
    )


ORPO = Recipe(name="orpo", config=OrpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
