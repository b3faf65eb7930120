"""hpt: imitate where the policy fails, reinforce where it succeeds, problem by problem.

Sampled: G completions of each prompt, afresh; where at most `most_solved` of them are right, a reference path takes the group's place. Credit:
grpo's. Loss: clipped policy gradient on the samples, NLL on the paths; a path counts as much as the group that it replaces. Paper: arXiv 2509.04419.
The signal vanishes in groups that are all right, and in failed ones without a reference path. Provenance mixed, interface verifier, role support
and correction at once.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.imitation import Nll
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.grpo import SAMPLES, ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.recipes.sft import demonstrations
from posttrain.trainers.sources.interleaved import by_problem, replace_unsolved
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import RowRole


class HptConfig(ClippedConfig):
    """Knobs of `hpt`."""

    most_solved: int = Field(default=0, ge=0, description="γ, right samples up to which a problem is imitated. HPT: 0..2 of 8.")
    sft_weight: float = Field(default=1.0, gt=0, description="Weight of imitation beside reinforcement. HPT: 1.")


def build(inputs: TrainingInputs, config: HptConfig) -> Stage:
    """Put the stage together.

    Raises:
        UserError: There are no reference paths.
    """
    known = by_problem(demonstrations(inputs, "hpt", None))
    own = Component(term=clipped(config), reduction=sequence_mean, roles=SAMPLES, whole_batch=True)
    imitated = Component(
        term=Nll(),
        reduction=sequence_mean,
        weight=config.sft_weight * config.group_size,
        roles=frozenset({RowRole.DEMONSTRATION}),
        whole_batch=True,
    )
    return Stage(
        source=rollouts(inputs, config, "hpt", finish=replace_unsolved(known, config.most_solved)),
        credit=GroupCredit(),
        components=with_kl(config, sequence_mean, own, imitated),
    )


HPT = Recipe(name="hpt", config=HptConfig, build=build, needs_verifier=True)
