"""dft: imitate reference paths, with less weight on low-probability tokens.

Sampled: nothing; the rows are those of sft.
Credit: none.
Loss: sft's with each token weighted by its own probability, which makes the gradient that of π(y_t) itself: the one that a reward of 1 for exactly
this token would give. SFT's is divided by π(y_t), so that the least likely tokens dominate it.
Paper: arXiv 2508.05629.
No learning signal when a path is far outside the support: tokens of probability 0 have no weight, so it reshapes where sft expands.
"""

from __future__ import annotations

from posttrain.trainers.config import ReferenceConfig
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.recipes.blocks import given_rows, imitation_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class DftConfig(ReferenceConfig):
    """Settings of `dft`: those of sft."""


def build(inputs: TrainingInputs, config: DftConfig) -> Stage:
    """Build the stage."""
    return imitation_stage(given_rows(inputs, config), Nll(token_weight="probability"))


DFT = Recipe(name="dft", config=DftConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
