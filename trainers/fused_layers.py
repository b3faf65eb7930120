"""The layers of a Llama-like model for training on a processor in bfloat16, forward and backward written out.

A layer is one autograd function. Between its matrix products stand functions in C; the hidden states stay fp32 and are never copied to be
cast; what backward can make again cheaply (normalised states, the gated product) is not kept. Everything else goes through the model's own
forward function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from posttrain.diagnose.engines.llama.layers import is_llama_like
from posttrain.trainers.attention import Attention, open_attention
from posttrain.trainers.native.attention import AttentionShape
from posttrain.trainers.native.library import LANES, TrainingLibrary, load_training_library


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shape:
    """What a layer must know beside its weights."""

    library: TrainingLibrary
    attention: Attention
    rotated: int
    """Heads of queries and keys."""
    epsilon: float
    cosine: Tensor
    """[B · S, D] fp32."""
    sine: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedLayers:
    """The layers of one model."""

    model: PreTrainedModel
    library: TrainingLibrary

    @classmethod
    def of(cls, model: PreTrainedModel) -> FusedLayers | None:
        """The layers, or None where the model, its place or this machine does not allow it."""
        if not (is_llama_like(model) and model.device.type == "cpu" and model.dtype == torch.float32):
            return None
        config, layers = model.config, model.model.layers
        linears = [part for layer in layers for part in layer.modules() if isinstance(part, nn.Linear)]
        width = layers[0].self_attn.head_dim
        plain = (
            config.hidden_act == "silu"
            and all(part.bias is None for part in linears)
            and not hasattr(layers[0].self_attn, "q_norm")
            and config.hidden_size % LANES == config.intermediate_size % LANES == 0
            and width % (2 * LANES) == 0
            and all(type(parameter) is nn.Parameter for parameter in model.parameters())
        )
        library, _ = load_training_library()
        return cls(model=model, library=library) if plain and library is not None else None

    def hidden(self, input_ids: Tensor, position_ids: Tensor, segments: Tensor | None, at: Tensor) -> Tensor:
        """The last hidden states, normalised.

        Args:
            input_ids: [B, S]; padding stands on the right.
            position_ids: [B, S].
            segments: [B, S], as `attention_mask` takes them; None is causal.
            at: [N] places among the B · S whose states are wanted.

        Returns:
            [N, H] bf16.
        """
        inner, config = self.model.model, self.model.config
        x = inner.embed_tokens(input_ids)
        cosine, sine = (part.float().flatten(0, 1).contiguous() for part in inner.rotary_emb(x, position_ids))
        x = x.flatten(0, 1)
        first = inner.layers[0].self_attn
        shape = _Shape(
            library=self.library,
            attention=open_attention(
                AttentionShape(
                    sequences=input_ids.shape[0],
                    length=input_ids.shape[1],
                    heads=config.num_attention_heads,
                    key_heads=config.num_key_value_heads,
                    width=first.head_dim,
                    scaling=first.scaling,
                ),
                segments,
            ),
            rotated=config.num_attention_heads + config.num_key_value_heads,
            epsilon=inner.layers[0].input_layernorm.variance_epsilon,
            cosine=cosine.expand(x.shape[0], -1) if len(cosine) == len(x) else cosine.repeat(input_ids.shape[0], 1),
            sine=sine.expand(x.shape[0], -1) if len(sine) == len(x) else sine.repeat(input_ids.shape[0], 1),
        )
        delta: Tensor | None = None
        for layer in inner.layers:
            attention, mlp = layer.self_attn, layer.mlp
            x, delta = _Layer.apply(
                x, delta, layer.input_layernorm.weight, attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight,
                attention.o_proj.weight, layer.post_attention_layernorm.weight, mlp.gate_proj.weight, mlp.up_proj.weight,
                mlp.down_proj.weight, shape,
            )  # fmt: skip
        assert delta is not None
        normed: Tensor = _Norm.apply(x[at], delta[at], inner.norm.weight, inner.norm.variance_epsilon, self.library)
        return normed


def _narrow_side_by_side(*weights: Tensor) -> Tensor:
    """[Σ rows, C] bf16, each weight read and written once."""
    out = torch.empty(sum(map(len, weights)), weights[0].shape[1], dtype=torch.bfloat16)
    for part, weight in zip(out.split([len(weight) for weight in weights]), weights, strict=True):
        part.copy_(weight)
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, epsilon: float, library: TrainingLibrary) -> Tensor:
        z, y, inverse = library.norm_forward(x, delta, weight, epsilon)
        ctx.save_for_backward(z, inverse, weight)
        ctx.library = library
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, inverse, weight = ctx.saved_tensors
        dz = torch.zeros_like(z)
        copy, dweight = ctx.library.norm_backward(z, weight, inverse, dy.contiguous(), dz, copy=True)
        return dz, copy, dweight, None, None


class _Layer(torch.autograd.Function):
    """(states, what the last layer adds to them) → the same for the next layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        first_norm: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        second_norm: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        shape: _Shape,
    ) -> tuple[Tensor, Tensor]:
        library = shape.library
        into_heads, into_gates = _narrow_side_by_side(q, k, v), _narrow_side_by_side(gate, up)
        out_of_heads, out_of_gates = o.bfloat16(), down.bfloat16()
        z1, y1, inverse1 = library.norm_forward(x, delta, first_norm, shape.epsilon)
        qkv = y1 @ into_heads.T
        library.rotate(qkv, shape.rotated, shape.cosine, shape.sine)
        attended, normalisers = shape.attention.forward(qkv)
        z2, y2, inverse2 = library.norm_forward(z1, attended @ out_of_heads.T, second_norm, shape.epsilon)
        gates = y2 @ into_gates.T
        added = library.gate_forward(gates) @ out_of_gates.T
        ctx.save_for_backward(z1, inverse1, qkv, attended, normalisers, z2, inverse2, gates, first_norm, second_norm)
        ctx.narrow = (into_heads, out_of_heads, into_gates, out_of_gates)
        ctx.shape, ctx.sizes, ctx.has_delta = shape, (len(q), len(k), len(v), len(gate), len(up)), delta is not None
        if z2 is x:  # nothing was added: an input must not come back as it is
            z2 = z2.clone()
        return z2, added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor, dadded: Tensor) -> tuple[Tensor | None, ...]:
        z1, inverse1, qkv, attended, normalisers, z2, inverse2, gates, first_norm, second_norm = ctx.saved_tensors
        into_heads, out_of_heads, into_gates, out_of_gates = ctx.narrow
        shape: _Shape = ctx.shape
        library = shape.library
        dz, dadded = dz.contiguous(), dadded.contiguous()

        gated = dadded @ out_of_gates
        dgates = library.gate_backward(gates, gated)  # `gated` is now what went into the last product
        d_down = (dadded.T @ gated).float()
        d_gates = (dgates.T @ library.norm_again(z2, second_norm, inverse2)).float()
        dprojected, d_second = library.norm_backward(z2, second_norm, inverse2, dgates @ into_gates, dz, copy=True)

        assert dprojected is not None
        d_o = (dprojected.T @ attended).float()
        dqkv = shape.attention.backward(qkv, attended, normalisers, dprojected @ out_of_heads)
        library.rotate(dqkv, shape.rotated, shape.cosine, shape.sine, back=True)
        d_heads = (dqkv.T @ library.norm_again(z1, first_norm, inverse1)).float()
        ddelta, d_first = library.norm_backward(z1, first_norm, inverse1, dqkv @ into_heads, dz, copy=ctx.has_delta)

        num_q, num_k, num_v, num_gate, num_up = ctx.sizes
        d_q, d_k, d_v = d_heads.split([num_q, num_k, num_v])
        d_gate, d_up = d_gates.split([num_gate, num_up])
        return dz, ddelta, d_first, d_q, d_k, d_v, d_o, d_second, d_gate, d_up, d_down, None
