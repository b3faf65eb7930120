"""grpo: make what was better than its group more likely.

Sampled: G completions of each prompt of a batch, afresh from the live policy. Credit: reward minus the group's mean, over its
standard deviation, for every token alike. Loss: clipped policy gradient, averaged over the tokens of a sample, then over
samples; a k3 divergence to the start where `kl_weight` > 0. Paper: DeepSeekMath (arXiv 2402.03300).
Changed from the textbook: one optimizer step per batch by default, so the ratio is exactly 1 and clipping idle; a capped
importance weight between sampler and trainer precision; rows without advantage are not run; a batch without signal makes no
step at all. The signal vanishes in groups that are all right or all wrong. Provenance on-policy, interface verifier, role
reshaping.
"""

from __future__ import annotations

from typing import cast

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import GrpoConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.reductions import sequence_mean, token_mean
from posttrain.trainers.objectives.terms import KlToReference, PolicyGradient
from posttrain.trainers.sources.policy import PolicySource
from posttrain.trainers.stage import Recipe, Reduction, Stage, StageInputs, Term
from posttrain.trainers.types import LiveEngine

REDUCTIONS: dict[str, Reduction] = {"sequence_mean": sequence_mean, "token_mean": token_mean}


def build(inputs: StageInputs, config: GrpoConfig) -> Stage:
    """Put the stage together.

    Raises:
        SettingsError: The engine samples frozen weights.
    """
    if not hasattr(inputs.engine, "refresh"):
        raise SettingsError(
            f"grpo samples the model in training, and engine {inputs.engine.info.name} cannot be refreshed; use transformers"
        )
    source = PolicySource(
        cast(LiveEngine, inputs.engine),
        inputs.graders,
        inputs.training_set.train,
        problems_per_batch=config.problems_per_batch,
        group_size=config.group_size,
        num_steps=config.num_steps,
        num_updates=config.updates_per_batch,
        seed=config.seed,
    )
    terms: tuple[Term, ...] = (
        PolicyGradient(eps_low=config.eps_low, eps_high=config.eps_high, importance_cap=config.importance_cap),
    )
    if config.kl_weight > 0:
        terms = (*terms, KlToReference(weight=config.kl_weight))
    return Stage(
        source=source,
        credit=GroupCredit(normalize_std=config.normalize_std),
        terms=terms,
        reduction=REDUCTIONS[config.reduction],
    )


GRPO = Recipe(
    name="grpo",
    provenance="on_policy",
    interface="verifier",
    role="policy_reshaping",
    needs=("verifier",),
    config=GrpoConfig,
    build=build,
)
