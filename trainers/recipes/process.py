"""process: praise and blame single steps.

Sampled: G completions of each prompt of a batch, afresh from the live policy, divided into steps at a separator. Credit: each step is worth what
the worst step from it on is worth, against the group's other samples; a tenth of the verifier's own reward is added. Step scores come from
`step_feedback`: `rollouts` draws continuations behind each step and counts how many end right; anything else names a process reward model.
Loss: clipped policy gradient, averaged over all tokens. Papers: PURE (arXiv 2504.15275) for the minimum, Math-Shepherd (2312.08935) for rollouts.
Changed from the textbook: the exact minimum in place of a soft one, and a baseline per group.
The signal vanishes where every step of every sample of a group is worth the same; a step scorer that can be fooled will be.
Provenance on-policy, interface process feedback, role fine-grained reshaping.
"""

from __future__ import annotations

from pydantic import Field

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.credit.steps import StepCredit
from posttrain.trainers.distributed.processes import current
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.grpo import ClippedConfig, clipped, rollouts, with_kl
from posttrain.trainers.sources.steps import by_reward_model, by_rollouts, score_steps
from posttrain.trainers.stage import Component, Recipe, Stage, TrainingInputs


class ProcessConfig(ClippedConfig):
    """Knobs of `process`."""

    step_feedback: str = Field(default="rollouts", description="`rollouts`, or the folder of a process reward model.")
    step_separator: str = Field(default="\n", min_length=1, description="Text that ends a step.")
    num_rollouts: int = Field(default=4, ge=1, description="Continuations drawn behind each step. Math-Shepherd: 8.")
    outcome_weight: float = Field(default=0.1, ge=0, description="Share of the verifier's own reward. PURE: about 10 %.")


def build(inputs: TrainingInputs, config: ProcessConfig) -> Stage:
    """Put the stage together.

    Raises:
        ModelError: The process reward model cannot be loaded.
    """
    if inputs.model is None or inputs.tokenizer is None:
        raise SettingsError("process divides samples into steps with the tokenizer of the model in training, and none was given")
    if config.step_feedback == "rollouts":
        score = by_rollouts(
            inputs.engine,
            inputs.graders,
            inputs.training_set,
            inputs.tokenizer,
            num_rollouts=config.num_rollouts,
            seed=config.seed,
        )
    else:
        score = by_reward_model(config.step_feedback, current().train_device(inputs.model))
    return Stage(
        source=rollouts(inputs, config, "process", finish=score_steps(inputs.tokenizer, config.step_separator, score)),
        credit=StepCredit(outcome_weight=config.outcome_weight),
        components=with_kl(config, token_mean, Component(term=clipped(config), reduction=token_mean)),
    )


PROCESS = Recipe(name="process", config=ProcessConfig, build=build, needs_verifier=True)
