"""ipo: bring the margin between the two answers of a pair to a given size, and no further.

Sampled: as dpo.
Credit: none.
Loss: (m − 1/(2β))², m the difference of the two mean log-ratios per token, averaged over pairs. It is least at a finite margin, where DPO's is
least at infinity.
Paper: arXiv 2310.12036.
No learning signal when the margin is 1/(2β), which is where it is meant to stop.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import PairConfig
from posttrain.trainers.objectives.preferences import ReferenceMargin
from posttrain.trainers.recipes.blocks import pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class IpoConfig(PairConfig):
    """Settings of `ipo`."""

    beta: float = Field(default=0.1, gt=0)
    """The margin aimed at is 1/(2β) nats per token. TRL: 0.1; IPO's τ."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Of the chosen answers' NLL; IPO has none."""


def build(inputs: TrainingInputs, config: IpoConfig) -> Stage:
    """Build the stage."""
    term = ReferenceMargin(beta=config.beta, shape="squared")
    return pair_stage(inputs, config, term, config.nll_weight)


IPO = Recipe(name="ipo", config=IpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
