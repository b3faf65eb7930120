"""merge: average the weights with those of an earlier checkpoint.

Sampled: nothing.
Credit: none.
Loss: none, and no step is made: every weight becomes (1 − share) · its own + share · the earlier checkpoint's.
Papers: arXiv 2203.05482 (model soups), 2109.01903 (between a model and its fine-tuned self).
Right where two checkpoints of one start each have something the other lacks; it does not reliably undo forgetting (2510.17776). Nothing is gained when
they are far apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.recipes.blocks import require_teacher
from posttrain.trainers.stage import Recipe, TrainingInputs, Transform


class MergeConfig(TrainingConfig):
    """Settings of `merge`; those of optimizer steps are unused."""

    share: float = Field(default=0.5, ge=0, le=1)
    """Of the earlier checkpoint's weights; 0 leaves the model as it is."""
    sweep_steps: None = None
    """No steps are taken."""
    lora_rank: None = None
    """All weights are averaged; an adapter cannot be."""


def average_weights(inputs: TrainingInputs, config: MergeConfig) -> Transform:
    """Return what moves the weights towards those of the earlier checkpoint, and gives the relative length of the way (`moved`).

    Raises:
        SettingsError: The weights of the earlier checkpoint have other shapes.
    """
    other = require_teacher(inputs, "merge", same_tokens=False)
    mine, theirs = dict(inputs.model.named_parameters()), dict(other.model.named_parameters())
    wrong = [name for name in mine if name not in theirs or mine[name].shape != theirs[name].shape]
    if wrong or len(mine) != len(theirs):
        raise SettingsError(
            f"merge: {other.source} is no checkpoint of the same model ({wrong[0] if wrong else 'other weights'} differs)",
            code="checkpoint_differs",
        )

    @torch.no_grad()
    def average() -> Mapping[str, float]:
        moved, size = 0.0, 0.0
        for name, weight in mine.items():
            step = config.share * (theirs[name].to(weight) - weight)
            moved += float(step.double().square().sum())
            size += float(weight.double().square().sum())
            weight.add_(step)
        return {"moved": (moved / size) ** 0.5}

    return average


MERGE = Recipe(name="merge", config=MergeConfig, transform=average_weights)
