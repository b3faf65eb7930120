"""sft: imitate reference paths.

Sampled: nothing; the rows are the reference paths of train problems, or those of `--data`.
Credit: none; every token of every path counts alike.
Loss: −log π(y_t), averaged over the tokens of the batch.
Paper: InstructGPT's first step (arXiv 2203.02155).
Changed from the paper: the end token is learned, the prompt is not.
No learning signal when the paths are already likely. The policy's own mistakes are never seen, and what the paths do not contain is forgotten.
"""

from __future__ import annotations

from posttrain.trainers.config import ReferenceConfig
from posttrain.trainers.recipes.blocks import given_rows, imitation_stage
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class SftConfig(ReferenceConfig):
    """Settings of `sft`."""


def build(inputs: TrainingInputs, config: SftConfig) -> Stage:
    """Build the stage."""
    return imitation_stage(given_rows(inputs, config))


SFT = Recipe(name="sft", config=SftConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
