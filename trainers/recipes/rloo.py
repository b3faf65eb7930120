"""rloo: make what was better than the others of its group more likely, sample by sample.

As grpo, but the baseline is the mean of the group's other samples, which leaves the gradient unbiased, nothing is divided by a standard
deviation, and the ratio is that of the whole sample, Π r_t: plain REINFORCE with a good baseline. Paper: arXiv 2402.14740.
The signal vanishes in groups that are all right or all wrong. Provenance on-policy, interface verifier, role reshaping.
"""

from __future__ import annotations

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import sequence_mean, sequence_sum
from posttrain.trainers.recipes.grpo import ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class RlooConfig(ClippedConfig):
    """Knobs of `rloo`: those of a clipped policy gradient."""


def build(inputs: TrainingInputs, config: RlooConfig) -> Stage:
    """Put the stage together."""
    term = clipped(config, "sequence")
    return Stage(
        source=rollouts(inputs, config, "rloo"),
        credit=GroupCredit(normalize_std=False, leave_one_out=True),
        components=with_kl(config, sequence_sum, Component(term=term, reduction=sequence_mean)),
    )


RLOO = Recipe(name="rloo", config=RlooConfig, build=build, needs_verifier=True)
