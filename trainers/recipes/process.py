"""process: give credit to single steps.

Sampled: G completions of each prompt of a batch, afresh from the policy in training, divided into steps at a separator.
Credit: each step is worth what the worst step from it on is worth, relative to the group's other samples, plus a tenth of the verifier's own reward.
Step scores come from `step_feedback`: `rollouts` samples continuations behind each step and counts how many end right; anything else names a process
reward model.
Loss: clipped policy gradient, averaged over all tokens.
Papers: PURE (arXiv 2504.15275) for the minimum, Math-Shepherd (2312.08935) for rollouts.
Changed from the papers: the exact minimum in place of a soft one, and a baseline per group.
No learning signal when every step of every sample of a group is worth the same. A step scorer that can be fooled will be.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.trainers.config import ClippedConfig
from posttrain.trainers.credit.steps import StepCredit
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import clipped_policy_gradient, policy_gradient_stage, policy_rollouts
from posttrain.trainers.sources.policy import sampler_of
from posttrain.trainers.sources.step_scores import by_reward_model, by_rollouts, score_steps
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class ProcessConfig(ClippedConfig):
    """Settings of `process`."""

    step_feedback: str = "rollouts"
    """`rollouts`, or the folder of a process reward model."""
    step_separator: str = Field(default="\n", min_length=1)
    """Text that ends a step."""
    num_rollouts: int = Field(default=4, ge=1)
    """Continuations sampled behind each step. Math-Shepherd: 8."""
    outcome_weight: float = Field(default=0.1, ge=0)
    """Share of the verifier's own reward. PURE: about 10 %."""


def build(inputs: TrainingInputs, config: ProcessConfig) -> Stage:
    """Build the stage.

    Raises:
        ModelError: The process reward model cannot be loaded.
    """
    if config.step_feedback == "rollouts":
        score = by_rollouts(
            sampler_of(inputs),
            inputs.training_set,
            inputs.tokenizer,
            num_rollouts=config.num_rollouts,
            seed=config.seed,
        )
    else:
        score = by_reward_model(config.step_feedback, inputs.processes.train_device(inputs.model))
    build_rows = score_steps(inputs.tokenizer, config.step_separator, score)
    source, credit = (
        policy_rollouts(inputs, config, "process", build_rows=build_rows),
        StepCredit(outcome_weight=config.outcome_weight),
    )
    return policy_gradient_stage(source, config, clipped_policy_gradient(config), token_mean, credit)


PROCESS = Recipe(name="process", config=ProcessConfig, build=build)
