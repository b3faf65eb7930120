"""A scalar head: one number from the last hidden state, for values, rewards of answers and rewards of steps."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def hidden_width(model: PreTrainedModel) -> int:
    """Return H of the last hidden states: what the language-model head reads, which is not `hidden_size` where a projection stands between."""
    head = model.get_output_embeddings()
    return int(model.config.get_text_config().hidden_size if head is None else head.weight.shape[1])


def scalar_head(model: PreTrainedModel, *, bias: bool = True) -> nn.Linear:
    """Return a linear head [H] → 1 with zero weights, in float32 or float64, on the device of the model."""
    weight = model.get_input_embeddings().weight
    head = nn.Linear(
        hidden_width(model), 1, bias=bias, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32)
    )
    nn.init.zeros_(head.weight)
    if bias:
        nn.init.zeros_(head.bias)
    return head
