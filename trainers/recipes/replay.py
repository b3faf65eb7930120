"""replay: imitate what an earlier checkpoint still did right.

Sampled: n completions of every train problem, once, from the earlier checkpoint; those that the verifier calls right are kept, and the rows of
`--data` are mixed in where they are given. Credit: none. Loss: −log π(y_t), averaged over tokens. Papers: arXiv 2403.08763 (replay), 2510.18874
(samples of a policy protect what it did better than a penalty does).
The signal vanishes where the earlier checkpoint did not have it either, and where nothing was lost. Provenance off-policy, interface token targets,
role consolidation.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.credit.none import NoCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.logit_kd import teacher_of
from posttrain.trainers.recipes.seq_kd import TracesConfig, teacher_traces
from posttrain.trainers.sources.prepared import Made, in_epochs
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class ReplayConfig(TracesConfig):
    """Knobs of `replay`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak. As sft.")
    num_samples: int = Field(default=8, ge=1, description="Samples the earlier checkpoint draws per problem.")


def build(inputs: TrainingInputs, config: ReplayConfig) -> Stage:
    """Put the stage together."""
    teacher_of(inputs, "replay", same_tokens=False)
    earlier = teacher_traces(inputs, config, "replay", same_tokens=False)

    def make() -> Made:
        _, metrics = earlier.prepare()
        return [*earlier.rows, *inputs.data], metrics

    source = in_epochs(make, config)
    return Stage(source=source, credit=NoCredit(), components=(Component(term=Nll(), reduction=token_mean),))


REPLAY = Recipe(name="replay", config=ReplayConfig, build=build, needs_verifier=True, reads=frozenset({Material.DEMONSTRATIONS}))
