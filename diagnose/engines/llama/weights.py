"""The weights of Llama-like models in some precision: the live ones where that is their own, else copies.

Linear maps of one input are joined into one matrix, and packed as oneDNN wants them on a processor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

# The number of rows for which oneDNN picks the layout of packed weights; other numbers give the same results.
_ROWS_HINT = 256


class Weight:
    """A weight in some precision: the live one where that is its own, else a copy."""

    def __init__(self, live: torch.Tensor, dtype: torch.dtype):
        """Take the live weight and the precision."""
        self._live, self._dtype = live, dtype
        self.refresh()

    def refresh(self) -> None:
        """Copy the live weight anew, where it is copied."""
        self.value = self._live.detach().to(self._dtype)


class RmsNorm(Weight):
    """Division by the root mean square."""

    def __init__(self, norm: Any, dtype: torch.dtype):
        """Take the live module and the precision."""
        super().__init__(norm.weight, dtype)
        self.epsilon = float(norm.variance_epsilon)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last dimension of x."""
        return functional.rms_norm(x, x.shape[-1:], self.value, self.epsilon)


class Linears:
    """Linear maps of one input. Copies are joined into one matrix, packed where that is faster; else the live ones are used."""

    def __init__(self, maps: list[nn.Linear], dtype: torch.dtype, *, copied: bool, packs: bool):
        """Take the live maps, the precision, and whether to copy and to pack them."""
        self._maps, self._dtype, self._copied, self._packs = maps, dtype, copied, packs
        self._sizes = [one.out_features for one in maps]
        self.refresh()

    def refresh(self) -> None:
        """Copy the live weights anew, where they are copied."""
        if not self._copied:
            return
        self._weight = torch.cat([one.weight.detach().to(self._dtype) for one in self._maps])
        zeros = self._weight.new_zeros
        biases = [zeros(one.out_features) if one.bias is None else one.bias.detach().to(self._dtype) for one in self._maps]
        self._bias = torch.cat(biases) if any(one.bias is not None for one in self._maps) else None
        if self._packs:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS_HINT)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what each map gives for x."""
        if not self._copied:
            return tuple(functional.linear(x, one.weight, one.bias) for one in self._maps)
        return self.joined(x).split(self._sizes, dim=-1)

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the maps give for x, side by side; for copies only."""
        assert self._copied
        if self._packs:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return functional.linear(x, self._weight, self._bias)


class LayerWeights:
    """One layer's weights."""

    def __init__(self, layer: Any, dtype: torch.dtype, *, copied: bool, packs: bool):
        """Take a live layer, the precision, and whether to copy and to pack the weights."""
        attention, mlp = layer.self_attn, layer.mlp
        self.activation = mlp.act_fn
        self.qkv = Linears([attention.q_proj, attention.k_proj, attention.v_proj], dtype, copied=copied, packs=packs)
        self.out = Linears([attention.o_proj], dtype, copied=copied, packs=packs)
        self.gate_up = Linears([mlp.gate_proj, mlp.up_proj], dtype, copied=copied, packs=packs)
        self.down = Linears([mlp.down_proj], dtype, copied=copied, packs=packs)
        self.input_norm = RmsNorm(layer.input_layernorm, dtype)
        self.post_norm = RmsNorm(layer.post_attention_layernorm, dtype)
        self.q_norm = RmsNorm(attention.q_norm, dtype) if hasattr(attention, "q_norm") else None
        self.k_norm = RmsNorm(attention.k_norm, dtype) if hasattr(attention, "k_norm") else None

    def refresh(self) -> None:
        """Copy the live weights anew, where they are copied."""
        for part in (self.qkv, self.out, self.gate_up, self.down, self.input_norm, self.post_norm, self.q_norm, self.k_norm):
            if part is not None:
                part.refresh()
