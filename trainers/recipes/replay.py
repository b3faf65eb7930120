"""replay: imitate what an earlier checkpoint still did right.

Sampled: n completions of every train problem, once, from the earlier checkpoint; those that the verifier calls right are kept, and the rows of
`--data` are mixed in where they are given.
Credit: none.
Loss: −log π(y_t), averaged over tokens.
Papers: arXiv 2403.08763 (replay), 2510.18874 (samples of a policy protect what it did better than a penalty does).
No learning signal when the earlier checkpoint fails too, or when nothing was lost.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import TracesConfig
from posttrain.trainers.recipes.blocks import imitation_stage, teacher_traces
from posttrain.trainers.sources.prepared import Made, PreparedRows
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class ReplayConfig(TracesConfig):
    """Settings of `replay`."""

    num_samples: int = Field(default=8, ge=1)
    """Samples of the earlier checkpoint per problem."""


def build(inputs: TrainingInputs, config: ReplayConfig) -> Stage:
    """Build the stage."""
    earlier = teacher_traces(inputs, config, "replay", same_tokens=False)

    def make() -> Made:
        rows, metrics = earlier()
        return [*rows, *inputs.data], metrics

    return imitation_stage(PreparedRows(make, config))


REPLAY = Recipe(name="replay", config=ReplayConfig, build=build, reads=frozenset({Material.DEMONSTRATIONS}))
