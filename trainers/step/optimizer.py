"""AdamW, its learning-rate schedule, and the step that refuses to spread NaN into the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.distributed.processes import local_tensor


def learning_rate_at(step: int, num_steps: int, config: TrainingConfig) -> float:
    """Return the learning rate of step 0 ≤ step < num_steps: up in a line, then constant, or down to 0 in a line or half a cosine."""
    peak = config.learning_rate
    assert peak is not None, "run_recipe fills the default in"
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    factors = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return peak * factors[config.schedule]


def width_of(model: PreTrainedModel) -> int:
    """Return the hidden size of the language model."""
    return int(model.config.get_text_config().hidden_size)


def make_optimizer(model: PreTrainedModel, config: TrainingConfig, scalar_head: nn.Module | None = None) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101); only weight matrices decay, not norms, biases and decay rates of recurrent states.

    Fused where the device has the kernel: one pass over memory instead of ten.
    """
    parts: list[nn.Module] = [model] if scalar_head is None else [model, scalar_head]
    trained = [(name, each) for part in parts for name, each in part.named_parameters() if each.requires_grad]
    # The biases of experts are one matrix, a row for each expert.
    decays = [each.ndim >= 2 and not name.endswith(("bias", "A_log")) for name, each in trained]
    groups = [
        {"params": [each for (_, each), yes in zip(trained, decays, strict=True) if yes], "weight_decay": config.weight_decay},
        {"params": [each for (_, each), yes in zip(trained, decays, strict=True) if not yes], "weight_decay": 0.0},
    ]
    fused = all(each.device.type in ("cpu", "cuda") for _, each in trained)
    return torch.optim.AdamW(groups, lr=config.learning_rate_for(width_of(model)), betas=config.betas, fused=fused)


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters that an optimizer changes."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no number in these tensors, or in this process's shards of them, is NaN or infinite."""
    return all(bool(torch.isfinite(local_tensor(each)).all()) for each in tensors)


def clip_gradient(optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """Scale the gradient down to `max_norm`, and return the norm it had, NaN or infinite where a gradient is.

    A non-finite norm leaves NaN in the gradients: do not step.
    """
    parameters = trained_parameters(optimizer)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of all shards
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)
