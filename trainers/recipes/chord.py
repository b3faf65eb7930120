"""chord: begin with imitation and pass over to one's own samples.

Sampled: grpo's groups, and beside them a batch of reference paths from shuffled epochs. Credit: grpo's. Loss: (1 − μ) · grpo's + μ · NLL of the
paths, whose tokens count by φ = π(1 − π), so that neither what is known nor what is far off rules; μ falls in a line from `mu_start` to `mu_end`
over `mu_steps`. Paper: arXiv 2508.11408.
The signal of the samples vanishes in groups that are all right or all wrong; that of the paths where they are likely or out of reach.
Provenance mixed, interface verifier, role support and correction at once.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import sequence_mean, token_mean
from posttrain.trainers.recipes.grpo import SAMPLES, ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.recipes.sft import demonstrations
from posttrain.trainers.sources.interleaved import add_demonstrations
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import RowRole


class ChordConfig(ClippedConfig):
    """Knobs of `chord`."""

    rows_per_batch: int = Field(default=16, ge=1, description="Reference paths beside each batch of samples.")
    mu_start: float = Field(default=0.9, ge=0, le=1, description="Weight of imitation at the first step. CHORD-µ: 0.9.")
    mu_end: float = Field(default=0.05, ge=0, le=1, description="Weight of imitation from `mu_steps` on. CHORD-µ: 0.05.")
    mu_steps: int = Field(default=50, ge=1, description="Steps over which the weight falls. CHORD-µ: 200.")
    token_weight: str = Field(
        default="doubt", pattern="^(one|doubt)$", description="`doubt` weighs a path's tokens by φ = π(1 − π), `one` not at all."
    )


def build(inputs: TrainingInputs, config: ChordConfig) -> Stage:
    """Put the stage together.

    Raises:
        UserError: There are no reference paths.
    """
    known = demonstrations(inputs, "chord", None)

    def mu(step: int) -> float:
        return config.mu_start + (config.mu_end - config.mu_start) * min(1.0, step / config.mu_steps)

    own = Component(term=clipped(config), reduction=sequence_mean, weight=lambda step: 1 - mu(step), roles=SAMPLES)
    imitated = Component(
        term=Nll(token_weight=config.token_weight), reduction=token_mean, weight=mu, roles=frozenset({RowRole.DEMONSTRATION})
    )
    return Stage(
        source=rollouts(inputs, config, "chord", finish=add_demonstrations(known, config.rows_per_batch, config.seed)),
        credit=GroupCredit(),
        components=with_kl(config, sequence_mean, own, imitated),
    )


CHORD = Recipe(name="chord", config=ChordConfig, build=build, needs_verifier=True)
