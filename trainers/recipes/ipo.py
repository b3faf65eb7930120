"""ipo: bring the margin between the two answers of a pair to a given size, and no further.

As dpo, but for the shape of the loss: (m − 1/(2β))², m the difference of the two mean log-ratios per token, which has its least value at a
finite margin, where DPO's has it at infinity. Paper: arXiv 2310.12036.
The signal vanishes at the margin 1/(2β), which is its point. Provenance off-policy, interface preferences, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.objectives.preferences import ReferenceMargin
from posttrain.trainers.recipes.dpo import PairConfig, pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class IpoConfig(PairConfig):
    """Knobs of `ipo`."""

    beta: float = Field(default=0.1, gt=0, description="The margin aimed at is 1/(2β) nats per token. TRL: 0.1; IPO's τ.")
    nll_weight: float = Field(default=0.0, ge=0, description="Of the better answers' NLL; IPO has none.")


def build(inputs: TrainingInputs, config: IpoConfig) -> Stage:
    """Put the stage together."""
    term = ReferenceMargin(beta=config.beta, shape="squared")
    return pair_stage(inputs, config, "ipo", term, config.nll_weight)


IPO = Recipe(name="ipo", config=IpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
