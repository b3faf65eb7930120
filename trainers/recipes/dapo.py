"""dapo: grpo whose batches are full of signal, and whose unlikely tokens may rise further.

As grpo, but problems are sampled until a batch has enough groups whose rewards differ (dynamic sampling), the upper clip is wider than the lower
one, so that exploration is not cut, and all tokens of the batch count alike. With equal clips and without resampling it is grpo under
`token_mean`. Paper: arXiv 2503.14476. Left out: its penalty for answers near the length limit; a truncated sample has reward 0 here.
The signal vanishes only where no problem of the train set has mixed groups. Provenance on-policy, interface verifier, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.grpo import ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class DapoConfig(ClippedConfig):
    """Knobs of `dapo`."""

    eps_high: float = Field(default=0.28, gt=0, description="Upper clip of the ratio. DAPO: 0.28.")
    max_resamples: int = Field(
        default=3, ge=0, description="Further draws to fill a batch with groups whose rewards differ; 0: none."
    )


def build(inputs: TrainingInputs, config: DapoConfig) -> Stage:
    """Put the stage together."""
    return Stage(
        source=rollouts(inputs, config, "dapo", max_resamples=config.max_resamples),
        credit=GroupCredit(),
        components=with_kl(config, token_mean, Component(term=clipped(config), reduction=token_mean)),
    )


DAPO = Recipe(name="dapo", config=DapoConfig, build=build, needs_verifier=True)
