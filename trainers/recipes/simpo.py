"""simpo: make the better answer likelier per token than the worse one by a margin, without a reference model.

As dpo, but for the score of an answer, which is its mean log-probability per token itself: no reference, and no reward for length. Loss:
−log σ(β m − γ). Paper: arXiv 2405.14734.
The signal vanishes beyond the margin; nothing holds the policy near its start, so small steps and few epochs are needed. Provenance off-policy,
interface preferences, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.objectives.preferences import LikelihoodMargin
from posttrain.trainers.recipes.dpo import PairConfig, pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class SimpoConfig(PairConfig):
    """Knobs of `simpo`."""

    beta: float = Field(default=2.5, gt=0, description="Scale of the mean log-probabilities. SimPO: 2.0..10.")
    gamma_ratio: float = Field(default=0.55, ge=0, description="γ/β, the margin aimed at in nats per token. SimPO: 0.3..0.55.")
    nll_weight: float = Field(default=0.0, ge=0, description="Of the better answers' NLL; SimPO has none, CPO-SimPO 1.")


def build(inputs: TrainingInputs, config: SimpoConfig) -> Stage:
    """Put the stage together."""
    term = LikelihoodMargin(beta=config.beta, gamma=config.beta * config.gamma_ratio, per_token=True)
    return pair_stage(inputs, config, "simpo", term, config.nll_weight)


SIMPO = Recipe(name="simpo", config=SimpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
