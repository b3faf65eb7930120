"""grpo: make what was better than its group more likely.

Sampled: G completions of each prompt of a batch, afresh from the live policy. Credit: reward minus the group's mean, over its
standard deviation, for every token alike. Loss: clipped policy gradient, averaged over the tokens of a sample, then over
samples; a k3 divergence to the start where `kl_weight` > 0. Paper: DeepSeekMath (arXiv 2402.03300).
Changed from the textbook: one optimizer step per batch by default, so the ratio is exactly 1 and clipping idle; a capped
importance weight between sampler and trainer precision; rows without advantage are not run; a batch without signal makes no
step at all, and one with little signal a small one. The signal vanishes in groups that are all right or all wrong. Provenance on-policy,
interface verifier, role reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import RolloutConfig
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.divergences import KlToReference
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import sequence_mean, token_mean
from posttrain.trainers.sources.policy import Finish, PolicySource, PromptBuilder
from posttrain.trainers.stage import Component, Recipe, Reduction, Stage, Stateful, TrainingInputs
from posttrain.trainers.training_types import GradeFn, RowRole

REDUCTIONS: dict[str, Reduction] = {"sequence_mean": sequence_mean, "token_mean": token_mean}
SAMPLES = frozenset({RowRole.SAMPLE})


class ClippedConfig(RolloutConfig):
    """Knobs of policy gradients with a clipped ratio."""

    eps_low: float = Field(default=0.2, gt=0, lt=1, description="Lower clip of the ratio. PPO and GRPO: 0.2.")
    eps_high: float = Field(default=0.2, gt=0, description="Upper clip of the ratio. PPO and GRPO: 0.2; DAPO (2503.14476): 0.28.")


class GrpoConfig(ClippedConfig):
    """Knobs of `grpo`."""

    normalize_std: bool = Field(
        default=True, description="Divide by the group's standard deviation; Dr. GRPO (2503.20783) does not."
    )
    reduction: str = Field(
        default="sequence_mean",
        pattern="^(sequence_mean|token_mean)$",
        description="What is averaged: tokens per sample, then samples (GRPO); or all tokens alike (DAPO).",
    )


def live(inputs: TrainingInputs, stage: str) -> Engine:
    """The engine, where it samples the model in training.

    Raises:
        SettingsError: It samples frozen weights.
    """
    if not inputs.engine.is_live:
        raise SettingsError(
            f"{stage} samples the model in training, and engine {inputs.engine.info.name} cannot be refreshed; use transformers or vllm"
        )
    return inputs.engine


def rollouts(
    inputs: TrainingInputs,
    config: RolloutConfig,
    stage: str,
    *,
    graded: bool = True,
    max_resamples: int = 0,
    build_prompts: PromptBuilder | None = None,
    finish: Finish | None = None,
    memory: Stateful | None = None,
) -> PolicySource:
    """Fresh samples of the live policy for every batch."""
    graders: dict[str, GradeFn] | None = dict(inputs.graders) if graded else None
    return PolicySource(
        live(inputs, stage),
        graders,
        inputs.training_set.train,
        problems_per_batch=config.problems_per_batch,
        group_size=config.group_size,
        num_steps=config.num_steps,
        num_updates=config.updates_per_batch,
        seed=config.seed,
        max_resamples=max_resamples,
        build_prompts=build_prompts,
        finish=finish,
        memory=memory,
    )


def with_kl(config: RolloutConfig, reduction: Reduction, *components: Component) -> tuple[Component, ...]:
    """The components, and a divergence to the start where it has a weight."""
    if config.kl_weight == 0:
        return components
    return (*components, Component(term=KlToReference(), reduction=reduction, weight=config.kl_weight, roles=SAMPLES))


def clipped(config: ClippedConfig, ratio: str = "token") -> PolicyGradient:
    """The clipped policy gradient of a config."""
    return PolicyGradient(eps_low=config.eps_low, eps_high=config.eps_high, ratio=ratio, importance_cap=config.importance_cap)


def build(inputs: TrainingInputs, config: GrpoConfig) -> Stage:
    """Put the stage together.

    Raises:
        SettingsError: The engine samples frozen weights.
    """
    reduction = REDUCTIONS[config.reduction]
    return Stage(
        source=rollouts(inputs, config, "grpo"),
        credit=GroupCredit(normalize_std=config.normalize_std),
        components=with_kl(config, reduction, Component(term=clipped(config), reduction=reduction)),
    )


GRPO = Recipe(name="grpo", config=GrpoConfig, build=build, needs_verifier=True)
