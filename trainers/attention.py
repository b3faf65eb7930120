"""Causal attention of grouped heads for layers that are written out: on a processor's matrix units where it has them, else torch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from posttrain.diagnose.engines.native.attention import WIDTHS
from posttrain.trainers.native.attention import NativeAttention, load_native_attention
from posttrain.trainers.packing import attention_mask


class Attention(Protocol):
    """Causal attention of grouped heads, over sequences of one shape."""

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """The mean values [B · S, H · D] bf16 of qkv [B · S, (H + 2 G) · D] bf16, and what backward wants to know."""

    def backward(self, qkv: Tensor, out: Tensor, normalisers: Tensor, dout: Tensor) -> Tensor:
        """The gradient of qkv from that of the mean values."""


def open_attention(
    sequences: int, length: int, *, heads: int, key_heads: int, width: int, scaling: float, segments: Tensor | None
) -> Attention:
    """On matrix units where this processor has them, else torch's.

    Args:
        sequences: B.
        length: S, positions of a sequence.
        heads: H, of queries.
        key_heads: G, of keys and values.
        width: D, of a head.
        scaling: Factor of the scores.
        segments: [B, S], or None.
    """
    native = load_native_attention() if width % WIDTHS == 0 else None
    if native is not None:
        return NativeAttention(
            ahead=native[0], back=native[1], sequences=sequences, length=length, heads=heads, key_heads=key_heads, width=width,
            scaling=scaling, segments=None if segments is None else segments.int(),
        )  # fmt: skip
    mask = None
    if segments is not None:
        seen = attention_mask(segments)
        mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, float("-inf"))
    return TorchAttention(
        sequences=sequences, length=length, heads=heads, key_heads=key_heads, width=width, scaling=scaling, mask=mask
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchAttention:
    """Attention as torch computes it on a processor.

    Args:
        sequences: B.
        length: S, positions of a sequence.
        heads: H, of queries.
        key_heads: G, of keys and values.
        width: D, of a head.
        scaling: Factor of the scores.
        mask: [B, 1, S, S] bf16, added to the scores; None is causal.
    """

    sequences: int
    length: int
    heads: int
    key_heads: int
    width: int
    scaling: float
    mask: Tensor | None

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        attended, normalisers = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *self._split(qkv), 0.0, self.mask is None, attn_mask=self.mask, scale=self.scaling
        )
        return self._flat(attended), normalisers

    def backward(self, qkv: Tensor, out: Tensor, normalisers: Tensor, dout: Tensor) -> Tensor:
        """See `Attention`."""
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            self._heads(dout), *self._split(qkv), self._heads(out), normalisers, 0.0, self.mask is None, attn_mask=self.mask,
            scale=self.scaling,
        )  # fmt: skip
        return torch.cat([self._flat(part) for part in parts], dim=1)

    def _heads(self, x: Tensor) -> Tensor:
        """View [B, heads, S, D] of [B · S, heads · D]."""
        return x.view(self.sequences, self.length, -1, self.width).transpose(1, 2)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self._heads(qkv).split([self.heads, self.key_heads, self.key_heads], dim=1)
        return q, k, v

    def _flat(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(self.sequences * self.length, -1)
