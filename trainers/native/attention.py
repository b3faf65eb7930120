"""Calls the functions of attention.c on torch tensors: causal attention of grouped heads, forward and backward, where a processor has AMX."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain.diagnose.engines.native.compiler import load_library

_SOURCE = Path(__file__).with_name("attention.c")
WIDTHS = 32
"""The width of a head must be a multiple of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeAttention:
    """Attention over sequences of one shape.

    Args:
        library: The compiled functions.
        sequences: B.
        length: S, positions of a sequence.
        heads: H, of queries.
        key_heads: G, of keys and values; divides H.
        width: D, of a head.
        scaling: Factor of the scores.
        segments: [B, S] int32, or None: a position sees itself and those before it that are of its own segment or of segment 0.
    """

    library: ctypes.CDLL
    sequences: int
    length: int
    heads: int
    key_heads: int
    width: int
    scaling: float
    segments: Tensor | None

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """The mean values [B · S, H · D] bf16 and the log-normalisers [B, H, S] fp32 of qkv [B · S, (H + 2 G) · D] bf16."""
        out = qkv.new_empty(len(qkv), self.heads * self.width)
        normalisers = torch.empty(self.sequences, self.heads, self.length)
        self.library.attention_forward(*self._shape(), _at(qkv), _at(self.segments), _at(out), _at(normalisers))
        return out, normalisers

    def backward(self, qkv: Tensor, out: Tensor, normalisers: Tensor, dout: Tensor) -> Tensor:
        """The gradient [B · S, (H + 2 G) · D] bf16 of qkv from that of out [B · S, H · D] bf16."""
        dqkv = torch.empty_like(qkv)
        self.library.attention_backward(
            *self._shape(), _at(qkv), _at(self.segments), _at(out), _at(normalisers), _at(dout), _at(dqkv)
        )
        return dqkv

    def _shape(self) -> tuple[ctypes.c_int64 | ctypes.c_float, ...]:
        sizes = (self.sequences, self.length, self.heads, self.key_heads, self.width)
        return (*map(ctypes.c_int64, sizes), ctypes.c_float(self.scaling))


def _at(x: Tensor | None) -> ctypes.c_void_p:
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


@functools.cache
def load_attention_library() -> ctypes.CDLL | None:
    """The functions, or None where they cannot be compiled or the processor has no matrix units that this process may use."""
    library, _ = load_library(_SOURCE)
    return library if library is not None and library.usable() else None
