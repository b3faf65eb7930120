"""How much memory a run holds beside activations, counted on the models that it has loaded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.trainers.distributed.processes import local_tensor


def model_state_gigabytes(
    models: Iterable[nn.Module], optimizer: torch.optim.Optimizer, engines: Iterable[Engine], *, averaged: bool
) -> float:
    """Weights, gradients, Adam's two moments, the average, and the copies that engines make to sample from.

    Args:
        models: Everything loaded: in training, merged, frozen copy, teacher, scalar head. Memory that two of them share counts once.
        optimizer: Of what is trained.
        engines: One per model that is sampled; in another precision than float32 each copies its model's weights, at 2 bytes.
        averaged: Whether an average of the trained weights is kept.
    """
    held = [local_tensor(each) for model in models for each in model.parameters() if not each.is_meta]
    weights = {each.data_ptr(): each.numel() * each.itemsize for each in held}
    trained = sum(local_tensor(each).numel() for group in optimizer.param_groups for each in group["params"])
    copied = sum(
        2 * sum(each.numel() for each in engine.model.parameters())
        for engine in engines
        if isinstance(engine, TransformersEngine) and engine.info.sample_dtype != "float32"
    )
    return float(sum(weights.values()) + trained * (4 + 8 + (4 if averaged else 0)) + copied) / 1e9
