"""Causal attention of grouped heads in training, where a processor has matrix units: forward as the engines have it, backward in C."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain.diagnose.engines.llama.kernels.arguments import at
from posttrain.diagnose.engines.llama.kernels.attention import AttentionLibrary, load_attention
from posttrain.diagnose.engines.llama.kernels.compiler import load_library

_SOURCE = Path(__file__).with_name("attention_backward.c")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionShape:
    """What a batch of sequences is made of."""

    sequences: int
    """B."""
    length: int
    """S, positions of a sequence."""
    heads: int
    """H, of queries."""
    key_heads: int
    """G, of keys and values; divides H."""
    width: int
    """D, of a head."""
    scaling: float
    """Factor of the scores."""

    def heads_of(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views [B · S, heads, D] of queries, keys and values side by side [B · S, (H + 2 G) · D]."""
        q, k, v = qkv.view(len(qkv), -1, self.width).split([self.heads, self.key_heads, self.key_heads], dim=1)
        return q, k, v


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeAttention:
    """Attention on matrix units.

    Args:
        ahead: Computes it.
        back: Computes its gradient.
        shape: Of the batch.
        segments: [B, S] int32, or None: a position sees itself and those before it that are of its own segment or of segment 0.
    """

    ahead: AttentionLibrary
    back: ctypes.CDLL
    shape: AttentionShape
    segments: Tensor | None

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """The mean values [B · S, H · D] bf16 and the log-normalisers [B, H, S] fp32 of qkv [B · S, (H + 2 G) · D] bf16."""
        q, k, v = self.shape.heads_of(qkv)
        return self.ahead.over_batch(q, k, v, self.shape.scaling, length=self.shape.length, segments=self.segments)

    def backward(self, qkv: Tensor, out: Tensor, normalisers: Tensor, dout: Tensor) -> Tensor:
        """The gradient [B · S, (H + 2 G) · D] bf16 of qkv from that of out [B · S, H · D] bf16."""
        dqkv, shape = torch.empty_like(qkv), self.shape
        sizes = (shape.sequences, shape.length, shape.heads, shape.key_heads, shape.width)
        self.back.attention_backward(
            *map(ctypes.c_int64, sizes),
            ctypes.c_float(shape.scaling),
            *map(at, (qkv, self.segments, out, normalisers, dout, dqkv)),
        )
        return dqkv


def load_native_attention() -> tuple[AttentionLibrary, ctypes.CDLL] | None:
    """Both directions, or None where this processor has them not."""
    ahead, (back, _) = load_attention(), load_library(_SOURCE)
    return None if ahead is None or back is None else (ahead, back)
