"""dpo: make the chosen answer of each pair likelier than the rejected one, relative to the model before training.

Sampled: nothing where pairs are given with `--data`; else n completions of every train problem, once, from the model before training, and what
the verifier calls right is chosen over what it calls wrong.
Credit: none.
Loss: −log σ(β(Δ(w) − Δ(l))), Δ = log π/π_ref, averaged over pairs, plus `nll_weight` times the NLL of the chosen answers, per token.
Paper: arXiv 2305.18290; the NLL: 2404.19733.
Changed from the paper: the NLL is on by default, because without it the chosen answer's own likelihood often falls with the rejected one's.
No learning signal when a margin is large already. Pairs whose two sides are both far from what the policy writes teach style.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import PairConfig
from posttrain.trainers.objectives.preferences import ReferenceMargin
from posttrain.trainers.recipes.blocks import pair_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class DpoConfig(PairConfig):
    """Settings of `dpo`."""

    beta: float = Field(default=0.1, gt=0)
    """How far the policy may go for a margin; small goes far. DPO: 0.1..0.5."""
    nll_weight: float = Field(default=1.0, ge=0)
    """Of the chosen answers' NLL. Iterative RPO (2404.19733): 1; DPO itself: 0."""


def build(inputs: TrainingInputs, config: DpoConfig) -> Stage:
    """Build the stage."""
    return pair_stage(inputs, config, ReferenceMargin(beta=config.beta), config.nll_weight)


DPO = Recipe(name="dpo", config=DpoConfig, build=build, reads=frozenset({Material.PAIRS, Material.SAMPLES}))
