"""The model card of a checkpoint: what it was trained on and with, and what the dev slice said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.stage import Recipe
from posttrain.trainers.training.dev_evaluation import DevEvaluation
from posttrain.trainers.training_types import TrainingSet

_METRICS = {
    "pass_at_1": "pass@1",
    "reference_logprob": "log-probability of references, nats per token",
    "entropy": "entropy at own samples, nats per token",
    "kl_to_start": "KL(policy‖start) at own samples, nats per token",
    "truncated": "share of samples cut at the length limit",
    "length": "mean length of samples, tokens",
}


def write_model_card(
    model: PreTrainedModel,
    recipe: Recipe[Any],
    config: TrainingConfig,
    training_set: TrainingSet,
    num_steps: int,
    evaluations: Sequence[DevEvaluation],
    retained: TrainingSet | None = None,
) -> str:
    """Return the card as Markdown.

    Args:
        model: Names the base model.
        recipe: Of the stage.
        config: Its settings.
        training_set: What it learned from.
        num_steps: Optimizer steps taken.
        evaluations: On the dev slice: before training, and of what is stored.
        retained: Behaviors whose right answers were mixed in.
    """
    base = str(getattr(model.config, "_name_or_path", "") or "unknown")
    behaviors = "\n".join(
        f"- {name}: {sum(item.behavior.name == name for item in training_set.train)} train problems (fingerprint "
        f"{behavior.fingerprint or 'none'})"
        for name, behavior in training_set.behaviors.items()
    )
    if retained is not None:
        behaviors += "".join(
            f"\n- {name}: retained, at a share of {config.retain_share:g} of every batch for all retained behaviors (fingerprint "
            f"{behavior.fingerprint or 'none'})"
            for name, behavior in retained.behaviors.items()
        )
    settings = "\n".join(f"- {key}: {value}" for key, value in config.model_dump(mode="json").items())
    about = recipe.description
    return (
        f"---\nlibrary_name: transformers\ntags: [posttrain, {recipe.name}]\n---\n\n"
        f"# {Path(base).name or base}, after {recipe.name}\n\n"
        f"Trained with posttrain from `{base}`: {num_steps} optimizer steps of {recipe.name} "
        f"({about.provenance}, signal: {about.interface}, usual role: {about.role or 'none'}).\n\n"
        f"## Behaviors\n\n{behaviors}\n\nProblems of the eval and final splits took no part. Measure the checkpoint before "
        "relying on it: what was not trained may have been forgotten.\n\n"
        f"{_dev_table(evaluations, training_set, config)}## Settings\n\n{settings}\n"
    )


def _dev_table(evaluations: Sequence[DevEvaluation], training_set: TrainingSet, config: TrainingConfig) -> str:
    """Return the evaluations as a table; empty where there is none."""
    if not evaluations:
        return ""
    names = [name for name in _METRICS if all(name in each.metrics for each in evaluations)]
    heads = ["before", "after"] if len(evaluations) > 1 else ["before"]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(evaluations)) + "|"]
    lines += [f"| {_METRICS[name]} | {' | '.join(f'{each.metrics[name]:.4g}' for each in evaluations)} |" for name in names]
    return (
        f"## Measured on the dev slice\n\n{len(training_set.dev)} problems cut from the train split, {config.eval_samples} samples each where "
        "they are sampled. The checkpoint was chosen by the same slice, so these numbers flatter it.\n\n"
        + "\n".join(lines)
        + "\n\n"
    )
