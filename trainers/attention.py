"""Causal attention of grouped heads for layers that are written out: on a processor's matrix units where it has them, else torch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from posttrain.diagnose.engines.llama.kernels.attention import WIDTHS
from posttrain.trainers.native.attention import AttentionShape, NativeAttention, load_native_attention
from posttrain.trainers.step.packing import attention_mask


class Attention(Protocol):
    """Causal attention of grouped heads, over sequences of one shape."""

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """The mean values [B · S, H · D] bf16 of qkv [B · S, (H + 2 G) · D] bf16, and what backward wants to know."""

    def backward(self, qkv: Tensor, out: Tensor, normalisers: Tensor, dout: Tensor) -> Tensor:
        """The gradient of qkv from that of the mean values."""


def open_attention(shape: AttentionShape, segments: Tensor | None) -> Attention:
    """On matrix units where this processor has them, else torch's.

    Args:
        shape: Of the batch.
        segments: [B, S] as `attention_mask` takes them; None is causal.
    """
    native = load_native_attention() if shape.width % WIDTHS == 0 else None
    if native is not None:
        ahead, back = native
        return NativeAttention(ahead=ahead, back=back, shape=shape, segments=None if segments is None else segments.int())
    mask = None
    if segments is not None:
        seen = attention_mask(segments)
        mask = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, float("-inf"))
    return TorchAttention(shape=shape, mask=mask)


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchAttention:
    """Attention as torch computes it on a processor.

    Args:
        shape: Of the batch.
        mask: [B, 1, S, S] bf16, added to the scores; None is causal.
    """

    shape: AttentionShape
    mask: Tensor | None

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        attended, normalisers = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *self._inputs(qkv), 0.0, self.mask is None, attn_mask=self.mask, scale=self.shape.scaling
        )
        return self._flat(attended), normalisers

    def backward(self, qkv: Tensor, out: Tensor, normalisers: Tensor, dout: Tensor) -> Tensor:
        """See `Attention`."""
        outputs = (x.view(len(x), -1, self.shape.width) for x in (dout, out))
        dout, out = map(self._by_sequence, outputs)
        parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            dout, *self._inputs(qkv), out, normalisers, 0.0, self.mask is None, attn_mask=self.mask, scale=self.shape.scaling
        )
        return torch.cat([self._flat(part) for part in parts], dim=1)

    def _inputs(self, qkv: Tensor) -> list[Tensor]:
        """Views [B, heads, S, D] of queries, keys and values."""
        return [self._by_sequence(part) for part in self.shape.heads_of(qkv)]

    def _by_sequence(self, x: Tensor) -> Tensor:
        """View [B, heads, S, D] of [B · S, heads, D]."""
        return x.unflatten(0, (self.shape.sequences, self.shape.length)).transpose(1, 2)

    def _flat(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).reshape(self.shape.sequences * self.shape.length, -1)
