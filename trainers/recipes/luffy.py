"""luffy: put a reference path into each group of the policy's own samples.

Sampled: G completions of each prompt, afresh; one reference path of the problem joins the group with reward 1. Credit: grpo's, over all of them.
Loss: clipped policy gradient on the samples, −f(π) A with f(π) = π/(π + γ) on the reference path's tokens, averaged over the tokens of a row, then
over rows of both kinds. Paper: arXiv 2504.14945.
Changed from the textbook: one path a group, whatever its size. Where every sample is right the group has no signal, the path has none either.
The signal vanishes where everything succeeds; where nothing does, only the path is learned, as under sft. Provenance mixed, interface verifier,
role support and correction at once.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.policy_gradient import ShapedImitation
from posttrain.trainers.objectives.reductions import sequence_mean
from posttrain.trainers.recipes.grpo import SAMPLES, ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.recipes.sft import demonstrations
from posttrain.trainers.sources.interleaved import by_problem, join_group
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs
from posttrain.trainers.training_types import RowRole


class LuffyConfig(ClippedConfig):
    """Knobs of `luffy`."""

    gamma: float = Field(default=0.1, gt=0, description="γ of f(π) = π/(π + γ): small weighs unlikely tokens more. LUFFY: 0.1.")


def build(inputs: TrainingInputs, config: LuffyConfig) -> Stage:
    """Put the stage together.

    Raises:
        UserError: There are no reference paths.
    """
    known = by_problem(demonstrations(inputs, "luffy", None))
    shaped = Component(
        term=ShapedImitation(gamma=config.gamma),
        reduction=sequence_mean,
        roles=frozenset({RowRole.DEMONSTRATION}),
        whole_batch=True,
    )
    own = Component(term=clipped(config), reduction=sequence_mean, roles=SAMPLES, whole_batch=True)
    return Stage(
        source=rollouts(inputs, config, "luffy", finish=join_group(known)),
        credit=GroupCredit(),
        components=with_kl(config, sequence_mean, own, shaped),
    )


LUFFY = Recipe(name="luffy", config=LuffyConfig, build=build, needs_verifier=True)
