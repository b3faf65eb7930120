"""cpo: make the better answer likelier than the worse one, without a reference model, and imitate it.

As dpo with a reference that finds every answer equally likely: −log σ(β(log π(w) − log π(l))), sums over tokens, plus the NLL of the better
answer, which takes the reference's place. Paper: arXiv 2401.08417.
The signal vanishes where a margin is large already. Provenance off-policy, interface preferences, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.objectives.preferences import LikelihoodMargin
from posttrain.trainers.recipes.dpo import PairConfig, pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class CpoConfig(PairConfig):
    """Knobs of `cpo`."""

    beta: float = Field(default=0.1, gt=0, description="Scale of the summed log-probabilities. CPO: 0.1.")
    nll_weight: float = Field(default=1.0, ge=0, description="Of the better answers' NLL. CPO: 1.")


def build(inputs: TrainingInputs, config: CpoConfig) -> Stage:
    """Put the stage together."""
    return pair_stage(inputs, config, "cpo", LikelihoodMargin(beta=config.beta), config.nll_weight)


CPO = Recipe(name="cpo", config=CpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
