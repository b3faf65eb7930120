"""dft: imitate reference paths, unlikely tokens less.

As sft, but for the weight of each token, which is its own probability: the gradient is that of π(y_t) itself, the one that a reward of 1 for
exactly this token would give, where SFT's is divided by π(y_t) and so is ruled by the tokens the model finds oddest. Paper: arXiv 2508.05629.
The signal vanishes where a path is far outside the support: tokens of probability 0 have no weight, so it reshapes where sft expands.
Provenance off-policy, interface token targets.
"""

from __future__ import annotations

from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.sft import SftConfig, demonstrations, epochs
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class DftConfig(SftConfig):
    """Knobs of `dft`: those of sft."""


def build(inputs: TrainingInputs, config: DftConfig) -> Stage:
    """Put the stage together."""
    rows = demonstrations(inputs, "dft", config.max_references)
    term = Nll(token_weight="probability")
    return Stage(source=epochs(rows, config), credit=NoCredit(), components=(Component(term=term, reduction=token_mean),))


DFT = Recipe(name="dft", config=DftConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
