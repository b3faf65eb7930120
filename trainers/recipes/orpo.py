"""orpo: imitate the chosen answer, and hold its odds above those of the rejected one.

Sampled: as dpo.
Credit: none.
Loss: NLL of the chosen answers − λ log σ(log odds(w) − log odds(l)), odds = p/(1 − p), p the geometric mean of the tokens' probabilities; the NLL
averaged over tokens, the odds ratio over pairs. No reference model.
Paper: arXiv 2403.07691.
No learning signal from the pairs when the odds are far apart already; the NLL goes on as sft's does, and expands as it does.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import PairConfig
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.preferences import OddsRatio
from posttrain.trainers.objectives.reductions import row_mean, token_mean
from posttrain.trainers.recipes.blocks import CHOSEN, preference_pairs
from posttrain.trainers.sources.prepared import PreparedRows
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class OrpoConfig(PairConfig):
    """Settings of `orpo`."""

    odds_weight: float = Field(default=0.1, gt=0)
    """λ, weight of the odds ratio beside the NLL. ORPO: 0.1."""


def build(inputs: TrainingInputs, config: OrpoConfig) -> Stage:
    """Build the stage."""
    return Stage(
        source=PreparedRows(preference_pairs(inputs, config), config, rows_per_item=2),
        components=(
            Component(term=Nll(), reduction=token_mean, roles=CHOSEN),
            Component(term=OddsRatio(), reduction=row_mean, weight=config.odds_weight),
        ),
    )


ORPO = Recipe(name="orpo", config=OrpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
