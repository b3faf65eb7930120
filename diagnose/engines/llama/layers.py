"""The arithmetic of Llama-like models on rows without padding, with the weights of a Hugging Face model.

What calls it decides which tokens a token attends to: so tokens of many sequences can lie one after the other, and keys and values can
be shared. Linear maps of one input are laid together, and in bfloat16 on a processor they are packed as oneDNN wants them, and what lies
between them is done in C.

Legend of shapes: N tokens, C hidden width, H query heads, K key heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from posttrain.diagnose.engines.hardware import can_pack_bf16
from posttrain.diagnose.engines.llama.kernels import LANES, NativeLibrary, load_native

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Called with the layer's number, queries [N, H, D] (scaled), keys and values [N, K, D]; returns [N, H, D]."""

_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# The number of rows for which oneDNN picks the layout of packed weights; other numbers give the same results.
_ROWS_HINT = 256
# Rotary embeddings whose frequencies do not depend on how long a sequence is.
_STEADY_ROTARY = {"default", "linear", "llama3", "yarn"}


def is_llama_like(model: PreTrainedModel) -> bool:
    """Whether `LlamaLayers` computes what the model's own forward does: exact types of every part, full attention, no adapters."""
    name = type(model).__name__
    family = _FAMILIES.get(name)
    if family is None or type(model).__module__ != f"transformers.models.{family}.modeling_{family}":
        return False
    parts = importlib.import_module(type(model).__module__)
    stem = name.removesuffix("ForCausalLM")
    config, layers = model.config, model.model.layers
    windows = getattr(config, "layer_types", None) or (["sliding"] if getattr(config, "sliding_window", None) else [])
    rotary = getattr(config, "rope_parameters", None) or {}
    if any(kind != "full_attention" for kind in windows) or rotary.get("rope_type", "default") not in _STEADY_ROTARY:
        return False
    norm = getattr(parts, f"{stem}RMSNorm")
    expected = {
        getattr(parts, f"{stem}Model"): [model.model],
        getattr(parts, f"{stem}DecoderLayer"): list(layers),
        getattr(parts, f"{stem}Attention"): [layer.self_attn for layer in layers],
        getattr(parts, f"{stem}MLP"): [layer.mlp for layer in layers],
        norm: [model.model.norm, *(n for layer in layers for n in (layer.input_layernorm, layer.post_attention_layernorm))],
        nn.Embedding: [model.model.embed_tokens],
        nn.Linear: [model.lm_head, *(part for layer in layers for part in _linears(layer))],
    }
    exact = all(type(part) is kind for kind, found in expected.items() for part in found)
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    devices = {parameter.device for parameter in model.parameters()}
    return exact and not hooked and len(devices) == 1 and len({parameter.dtype for parameter in model.parameters()}) == 1


def _linears(layer: Any) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    return [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


class LlamaLayers:
    """A Llama-like model's layers in one precision.

    In the model's own precision and without packing nothing is copied; else the copies are renewed by `refresh`.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, *, packed: bool):
        """Take the weights of a model that `is_llama_like`.

        Args:
            model: The live weights.
            dtype: Precision of the arithmetic.
            packed: Whether to copy the weights into the layout that is fastest for few tokens at a time; costs their memory once more.
        """
        self.model, self.dtype, self.device = model, dtype, model.device
        attention = model.model.layers[0].self_attn
        self.num_layers = len(model.model.layers)
        self.width = int(attention.head_dim)
        self.num_heads = attention.q_proj.out_features // self.width
        self.num_key_heads = attention.k_proj.out_features // self.width
        self.scaling = float(attention.scaling)
        self.is_copied = copied = packed or dtype != model.dtype
        wants_packing = copied and dtype == torch.bfloat16 and self.device.type == "cpu"
        packs = wants_packing and can_pack_bf16()
        self.without_packing = "this processor has no bfloat16 units" if wants_packing and not packs else ""
        self.layers = [_Layer(layer, dtype, copied=copied, packs=packs) for layer in model.model.layers]
        self._head = _Linears([model.lm_head], dtype, copied=copied, packs=packs)
        self._embedding = _Copy(model.model.embed_tokens.weight, dtype)
        self.norm = _Norm(model.model.norm, dtype)
        self.native, self.without_native = self._find_native()

    @property
    def token_bytes(self) -> int:
        """Memory of one token's keys and values."""
        return 2 * self.num_layers * self.num_key_heads * self.width * self.dtype.itemsize

    def _find_native(self) -> tuple[NativeLibrary | None, str]:
        """The functions in C, where they compute what these layers do; or why they are missing there."""
        config = self.model.config
        widths = (self.width, config.hidden_size, config.intermediate_size)
        fits = self.is_copied and self.dtype == torch.bfloat16 and self.device.type == "cpu"
        fits = fits and config.hidden_act in ("silu", "swish") and all(width % LANES == 0 for width in widths)
        return load_native() if fits else (None, "")

    def refresh(self) -> None:
        """Copy the live weights anew, where there are copies."""
        parts: list[_Layer | _Linears | _Copy] = [*self.layers, self._head, self._embedding, self.norm]
        for part in parts:
            part.refresh()

    def run(self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Hidden states [N, C] after the last norm.

        Args:
            ids: [N] tokens.
            positions: [N] place of each in its sequence.
            attend: The attention; it keeps what keys and values it needs.
        """
        heads, key_heads, width = self.num_heads, self.num_key_heads, self.width
        hidden = self.hidden(functional.embedding(ids, self._embedding.value))
        rotate = self._rotate(positions)
        delta: torch.Tensor | None = None
        for number, layer in enumerate(self.layers):
            q, k, v = layer.qkv(hidden.normed(layer.input_norm, delta))
            q, k, v = q.unflatten(-1, (heads, width)), k.unflatten(-1, (key_heads, width)), v.unflatten(-1, (key_heads, width))
            attended = attend(number, rotate(q, layer.q_norm, self.scaling), rotate(k, layer.k_norm, 1.0), v)
            delta = layer.out(attended.flatten(1))[0]
            delta = layer.down(self.gate(layer, hidden.normed(layer.post_norm, delta)))[0]
        return hidden.normed(self.norm, delta)

    def hidden(self, x: torch.Tensor) -> Hidden:
        """Hidden states of tokens with embeddings x [N, C]."""
        return Hidden(x, self.native)

    def gate(self, layer: _Layer, x: torch.Tensor) -> torch.Tensor:
        """What a layer's gate lets through [N, I] of x [N, C]."""
        if self.native is not None:
            return self.native.gate(layer.gate_up.joined(x))
        gate, up = layer.gate_up(x)
        return layer.activation(gate).mul_(up)

    def project(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [N, V] of hidden states [N, C]; the live weights can write them into `out`, of which the first N rows are returned."""
        head = self.model.lm_head
        if out is None or self.is_copied or head.bias is not None:
            return self._head(hidden)[0]
        return torch.mm(hidden, head.weight.t(), out=out[: len(hidden)])

    @property
    def embedding(self) -> torch.Tensor:
        """[V, C]."""
        return self._embedding.value

    def rotation(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine [N, D] of positions [N]."""
        cos, sin = self.model.model.rotary_emb(torch.empty(0, dtype=dtype, device=self.device), positions[None])
        return cos[0], sin[0]

    def _rotate(self, positions: torch.Tensor) -> Callable[[torch.Tensor, _Norm | None, float], torch.Tensor]:
        """What normalises, rotates and scales heads [N, ., D] at positions [N]."""
        native = self.native
        if native is not None:
            exact = self.rotation(positions, torch.float32)

            def rotate_in_c(x: torch.Tensor, norm: _Norm | None, scaling: float) -> torch.Tensor:
                weight, epsilon = (None, 0.0) if norm is None else (norm.value, norm.epsilon)
                return native.rotate_heads(x, exact, weight, epsilon, scaling)

            return rotate_in_c
        cos, sin = (x[:, None] for x in self.rotation(positions, self.dtype))
        # A rotated head is x·cos + roll(x, D/2)·sin with the first half of the sines negative.
        sin = sin.clone()
        sin[..., : self.width // 2].neg_()

        def rotate(x: torch.Tensor, norm: _Norm | None, scaling: float) -> torch.Tensor:
            x = x if norm is None else norm(x)
            rotated = torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
            return rotated if scaling == 1.0 else rotated.mul_(scaling)

        return rotate


class Hidden:
    """Hidden states [N, C] as they grow from layer to layer; in fp32 where the functions in C keep them."""

    def __init__(self, x: torch.Tensor, native: NativeLibrary | None):
        """Take the embeddings."""
        self._x, self._native = (x if native is None else x.float()), native

    def normed(self, norm: _Norm, delta: torch.Tensor | None) -> torch.Tensor:
        """Add what a layer gives, and return them normalised."""
        if self._native is not None:
            return self._native.add_and_norm(self._x, delta, norm.value, norm.epsilon)
        self._x = self._x if delta is None else self._x + delta
        return norm(self._x)


class _Copy:
    """A weight in some precision: the live one where that is its own, else a copy."""

    def __init__(self, live: torch.Tensor, dtype: torch.dtype):
        self._live, self._dtype = live, dtype
        self.refresh()

    def refresh(self) -> None:
        self.value = self._live.detach().to(self._dtype)


class _Norm(_Copy):
    """Division by the root mean square."""

    def __init__(self, norm: Any, dtype: torch.dtype):
        super().__init__(norm.weight, dtype)
        self.epsilon = float(norm.variance_epsilon)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.value, self.epsilon)


class _Linears:
    """Linear maps of one input. Copies are laid together into one matrix, packed where that is faster; else the live ones are used."""

    def __init__(self, maps: list[nn.Linear], dtype: torch.dtype, *, copied: bool, packs: bool):
        self._maps, self._dtype, self._copied, self._packs = maps, dtype, copied, packs
        self._sizes = [one.out_features for one in maps]
        self.refresh()

    def refresh(self) -> None:
        if not self._copied:
            return
        self._weight = torch.cat([one.weight.detach().to(self._dtype) for one in self._maps])
        zeros = self._weight.new_zeros
        biases = [zeros(one.out_features) if one.bias is None else one.bias.detach().to(self._dtype) for one in self._maps]
        self._bias = torch.cat(biases) if any(one.bias is not None for one in self._maps) else None
        if self._packs:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS_HINT)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not self._copied:
            return tuple(functional.linear(x, one.weight, one.bias) for one in self._maps)
        return self.joined(x).split(self._sizes, dim=-1)

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """What the maps give, side by side; for copies only."""
        assert self._copied
        if self._packs:
            return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return functional.linear(x, self._weight, self._bias)


class _Layer:
    """One layer's weights."""

    def __init__(self, layer: Any, dtype: torch.dtype, *, copied: bool, packs: bool):
        attention, mlp = layer.self_attn, layer.mlp
        self.activation = mlp.act_fn
        self.qkv = _Linears([attention.q_proj, attention.k_proj, attention.v_proj], dtype, copied=copied, packs=packs)
        self.out = _Linears([attention.o_proj], dtype, copied=copied, packs=packs)
        self.gate_up = _Linears([mlp.gate_proj, mlp.up_proj], dtype, copied=copied, packs=packs)
        self.down = _Linears([mlp.down_proj], dtype, copied=copied, packs=packs)
        self.input_norm = _Norm(layer.input_layernorm, dtype)
        self.post_norm = _Norm(layer.post_attention_layernorm, dtype)
        self.q_norm = _Norm(attention.q_norm, dtype) if hasattr(attention, "q_norm") else None
        self.k_norm = _Norm(attention.k_norm, dtype) if hasattr(attention, "k_norm") else None

    @property
    def head_norms(self) -> tuple[torch.Tensor | None, torch.Tensor | None, float]:
        """Weights [D] of the norms of queries and keys, where there are any, and their epsilon."""
        if self.q_norm is None or self.k_norm is None:
            return None, None, 0.0
        return self.q_norm.value, self.k_norm.value, self.q_norm.epsilon

    def refresh(self) -> None:
        for part in (self.qkv, self.out, self.gate_up, self.down, self.input_norm, self.post_norm, self.q_norm, self.k_norm):
            if part is not None:
                part.refresh()
