"""cpo: make the chosen answer likelier than the rejected one, without a reference model, and imitate it.

Sampled: as dpo.
Credit: none.
Loss: −log σ(β(log π(w) − log π(l))), sums over tokens, averaged over pairs, plus the NLL of the chosen answers, which takes the reference's place.
Paper: arXiv 2401.08417.
No learning signal when a margin is large already.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import PairConfig
from posttrain.trainers.objectives.preferences import LikelihoodMargin
from posttrain.trainers.recipes.blocks import pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class CpoConfig(PairConfig):
    """Settings of `cpo`."""

    beta: float = Field(default=0.1, gt=0)
    """Scale of the summed log-probabilities. CPO: 0.1."""
    nll_weight: float = Field(default=1.0, ge=0)
    """Of the chosen answers' NLL. CPO: 1."""


def build(inputs: TrainingInputs, config: CpoConfig) -> Stage:
    """Build the stage."""
    return pair_stage(inputs, config, LikelihoodMargin(beta=config.beta), config.nll_weight)


CPO = Recipe(name="cpo", config=CpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
