"""Attention for decoding with grouped queries (arXiv 2305.13245), without copying keys and values once per query head.

One new token per row has one query per head. The queries of the heads that share a key head are laid side by side, as if they were
several positions of one head; keys and values are then read as they lie in the cache. The usual way repeats them first, which on a
processor costs more than the attention itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "grouped_sdpa"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to the cache; anything but one new token per row goes to transformers' own attention.

    Args:
        module: The attention layer.
        query: [B, H, 1, D].
        key: [B, K, S, D] with K dividing H.
        value: The same.
        attention_mask: [B, 1, 1, S] or None.
        kwargs: `scaling` and what else transformers passes.

    Returns:
        [B, 1, H, D], and None for the weights.
    """
    rows, heads, positions, width = query.shape
    key_heads = key.shape[1]
    if positions != 1 or heads == key_heads or kwargs.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    grouped = query.view(rows, key_heads, heads // key_heads, width)
    out = scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling"))
    return out.reshape(rows, 1, heads, out.shape[-1]), None


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Let a model that attends through PyTorch's own function decode in this way; others are left as they are."""
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(NAME, grouped_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
