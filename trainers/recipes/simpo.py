"""simpo: make the chosen answer likelier per token than the rejected one by a margin, without a reference model.

Sampled: as dpo.
Credit: none.
Loss: −log σ(β m − γ), m the difference of the two mean log-probabilities per token, averaged over pairs: length is not rewarded.
Paper: arXiv 2405.14734.
No learning signal when the margin is reached. Nothing holds the policy near its start, so small steps and few epochs are needed.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import PairConfig
from posttrain.trainers.objectives.preferences import LikelihoodMargin
from posttrain.trainers.recipes.blocks import pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class SimpoConfig(PairConfig):
    """Settings of `simpo`."""

    beta: float = Field(default=2.5, gt=0)
    """Scale of the mean log-probabilities. SimPO: 2.0..10."""
    gamma_ratio: float = Field(default=0.55, ge=0)
    """γ/β, the margin aimed at in nats per token. SimPO: 0.3..0.55."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Of the chosen answers' NLL; SimPO has none, CPO-SimPO 1."""


def build(inputs: TrainingInputs, config: SimpoConfig) -> Stage:
    """Build the stage."""
    term = LikelihoodMargin(beta=config.beta, gamma=config.beta * config.gamma_ratio, per_token=True)
    return pair_stage(inputs, config, term, config.nll_weight)


SIMPO = Recipe(name="simpo", config=SimpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
