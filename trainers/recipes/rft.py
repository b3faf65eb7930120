"""rft: imitate the policy's own verified samples.

Sampled: n completions of every train problem, once, from the model before training (with `rounds` > 1 again from the trained model), or none where
a run's train rollouts are given with `--from`.
Credit: none, but only rows that the verifier calls right are kept, distinct by text, a few per problem.
Loss: −log π(y_t), averaged over tokens.
Papers: RFT (arXiv 2308.01825), STaR (2203.14465), RAFT (2304.06767).
No learning signal when a problem is never solved in n samples. Problems that are always solved are only sharpened.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.types import LEAST_TEMPERATURE, MOST_TEMPERATURE
from posttrain.trainers.config import TracesConfig
from posttrain.trainers.recipes.blocks import imitation_stage
from posttrain.trainers.sources.iterative import IterativeSource
from posttrain.trainers.sources.policy import sampler_of
from posttrain.trainers.sources.prepared import PreparedRows, fixed
from posttrain.trainers.sources.verified import sample_verified, select_verified, successes
from posttrain.trainers.stage import Recipe, Source, Stage, TrainingInputs
from posttrain.trainers.training_types import Material


class RftConfig(TracesConfig):
    """Settings of `rft`."""

    num_samples: int = Field(default=8, ge=1)
    """Samples per problem. RFT (2308.01825): up to 100, practice 8..32."""
    max_per_problem: int = Field(default=4, ge=1)
    """Distinct verified samples kept per problem, so that easy problems do not outvote hard ones."""
    temperature: float = Field(default=1.0, ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)
    """Sampling temperature. RFT uses 0.7; 1 keeps rare paths, hence more of the support."""
    rounds: int = Field(default=1, ge=1)
    """How often to sample, each time from the model as it is then; steps or epochs are per round. ReST: 2..3."""


def build(inputs: TrainingInputs, config: RftConfig) -> Stage:
    """Build the stage."""

    def round_of(number: int) -> PreparedRows:
        if inputs.data:
            make = fixed(select_verified(inputs.data, successes(inputs.training_set), config.max_per_problem))
        else:
            seed = f"rft|{config.seed}" + (f"|{number}" if number else "")
            make = sample_verified(sampler_of(inputs), inputs.training_set, config, seed=seed)
        return PreparedRows(make, config.model_copy(update={"seed": config.seed + number}))

    source: Source = round_of(0) if config.rounds == 1 or inputs.data else IterativeSource(inputs.engine, round_of, config.rounds)
    return imitation_stage(source)


RFT = Recipe(name="rft", config=RftConfig, build=build, reads=frozenset({Material.SAMPLES}))
