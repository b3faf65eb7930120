"""The arithmetic of Llama-like models on rows without padding, with the weights of a Hugging Face model.

The caller decides which tokens a token attends to: so tokens of many sequences can lie one after the other, and keys and values can be
shared. What lies between the linear maps is computed by the kernels.

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

from posttrain.diagnose.engines.hardware import can_pack
from posttrain.diagnose.engines.llama.kernels.choose import choose_kernels
from posttrain.diagnose.engines.llama.kernels.torch_kernels import Kernels, Rotation
from posttrain.diagnose.engines.llama.weights import LayerWeights, Linears, RmsNorm, Weight

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Called with the layer's number, queries [N, H, D] (scaled), keys and values [N, K, D]; returns [N, H, D]."""

_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
# Rotary embeddings whose frequencies do not depend on how long a sequence is.
_STEADY_ROTARY = {"default", "linear", "llama3", "yarn"}


def is_llama_like(model: PreTrainedModel) -> bool:
    """Tell whether `LlamaLayers` computes what the model's own forward does: exact types of every part, full attention, no adapters."""
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

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype, *, packed: bool, kernels: Kernels | None = None):
        """Take the weights of a model that `is_llama_like`.

        Args:
            model: The live weights.
            dtype: Precision of the arithmetic.
            packed: Whether to copy the weights into the layout that is fastest for few tokens at a time; costs their memory once more.
            kernels: What computes the rest; by default what `choose_kernels` finds for copied weights, and torch for live ones.
        """
        self.model, self.dtype, self.device = model, dtype, model.device
        attention = model.model.layers[0].self_attn
        self.num_layers = len(model.model.layers)
        self.width = int(attention.head_dim)
        self.num_heads = attention.q_proj.out_features // self.width
        self.num_key_heads = attention.k_proj.out_features // self.width
        self.scaling = float(attention.scaling)
        self.is_copied = copied = packed or dtype != model.dtype
        on_processor = copied and self.device.type == "cpu"
        packs = on_processor and can_pack(dtype)
        emulated = on_processor and dtype == torch.bfloat16 and not packs
        self.without_packing = "this processor has no bfloat16 units" if emulated else ""
        self.layers = [LayerWeights(layer, dtype, copied=copied, packs=packs) for layer in model.model.layers]
        self._head = Linears([model.lm_head], dtype, copied=copied, packs=packs)
        self._embedding = Weight(model.model.embed_tokens.weight, dtype)
        self.norm = RmsNorm(model.model.norm, dtype)
        if kernels is None:
            kernels = choose_kernels(model.config, self.width, dtype, self.device) if copied else Kernels()
        self.kernels = kernels

    @property
    def token_bytes(self) -> int:
        """Memory of one token's keys and values."""
        return 2 * self.num_layers * self.num_key_heads * self.width * self.dtype.itemsize

    @property
    def notes(self) -> tuple[str, ...]:
        """What makes sampling slower than it could be, a clause each."""
        packing = f"{self.without_packing}; sample_dtype float32 is faster here" if self.without_packing else ""
        return tuple(note for note in (self.kernels.note, packing) if note)

    def refresh(self) -> None:
        """Copy the live weights anew, where there are copies."""
        parts: list[LayerWeights | Linears | Weight] = [*self.layers, self._head, self._embedding, self.norm]
        for part in parts:
            part.refresh()

    def run(self, ids: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """Return hidden states [N, C] after the last norm.

        Args:
            ids: [N] tokens.
            positions: [N] place of each in its sequence.
            attend: The attention; it keeps what keys and values it needs.
        """
        heads, key_heads, width, kernels = self.num_heads, self.num_key_heads, self.width, self.kernels
        hidden = self.embed(ids)
        rotation = self.rotation(positions)
        delta: torch.Tensor | None = None
        for number, layer in enumerate(self.layers):
            q, k, v = layer.qkv(kernels.add_and_norm(hidden, delta, layer.input_norm))
            q, k, v = q.unflatten(-1, (heads, width)), k.unflatten(-1, (key_heads, width)), v.unflatten(-1, (key_heads, width))
            q = kernels.rotate(q, rotation, layer.q_norm, self.scaling)
            attended = attend(number, q, kernels.rotate(k, rotation, layer.k_norm, 1.0), v)
            delta = layer.out(attended.flatten(1))[0]
            delta = layer.down(kernels.gate(layer, kernels.add_and_norm(hidden, delta, layer.post_norm)))[0]
        return kernels.add_and_norm(hidden, delta, self.norm)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [N, C] of tokens [N] before the first layer."""
        return self.kernels.to_hidden(functional.embedding(ids, self._embedding.value))

    def project(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [N, V] of hidden states [N, C]; the live weights can write them into `out`, of which the first N rows are returned."""
        head = self.model.lm_head
        if out is None or self.is_copied or head.bias is not None:
            return self._head(hidden)[0]
        return torch.mm(hidden, head.weight.t(), out=out[: len(hidden)])

    def rotation(self, positions: torch.Tensor) -> Rotation:
        """Return cosines and sines of positions [N], as the kernels rotate with them."""
        cos, sin = self.model.model.rotary_emb(torch.empty(0, device=self.device), positions[None])
        return self.kernels.prepare_rotation(cos[0], sin[0], self.dtype)
