"""What is computed between the matrix products of a Llama-like model, and on its logits: in torch, on any device and in any precision.

Legend of shapes: N tokens, C hidden width, I width of the gate, H heads, K key heads, D width of a head, R rows of logits, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from posttrain.diagnose.engines import token_sampling, token_scoring
from posttrain.diagnose.engines.llama.packs import Pack, PackAttention, Span
from posttrain.diagnose.engines.llama.weights import LayerWeights, RmsNorm
from posttrain.diagnose.engines.token_sampling import Picked
from posttrain.diagnose.engines.token_scoring import VocabularyScores
from posttrain.diagnose.types import Sampling

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of positions, as `rotate` wants them."""


class Kernels:
    """The functions beside the matrix products, in torch; other implementations inherit from it. Each layer set has one."""

    def __init__(self, note: str = ""):
        """Take why no faster implementation is used where one would fit; empty where none would."""
        self.note = note

    def to_hidden(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, C] in the precision in which hidden states are summed from layer to layer."""
        return embeddings

    def add_and_norm(self, hidden: torch.Tensor, delta: torch.Tensor | None, norm: RmsNorm) -> torch.Tensor:
        """Add what a layer gives to the hidden states [N, C], in place, and return them normalised."""
        return norm(hidden if delta is None else hidden.add_(delta))

    def gate(self, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
        """Return act(gate(x)) · up(x), [N, I], of x [N, C]."""
        gate, up = layer.gate_up(x)
        gated: torch.Tensor = layer.activation(gate).mul_(up)
        return gated

    def prepare_rotation(self, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """Prepare fp32 cosines and sines [N, D] for `rotate` of heads in a dtype.

        Here the first half of the sines becomes negative: a rotated head is x·cos + roll(x, D/2)·sin.
        """
        sin = sin.to(dtype, copy=True)[:, None]
        sin[..., : sin.shape[-1] // 2].neg_()
        return cos.to(dtype)[:, None], sin

    def rotate(self, heads: torch.Tensor, rotation: Rotation, norm: RmsNorm | None, scaling: float) -> torch.Tensor:
        """Return heads [N, H, D] normalised (where there is a norm), rotated and scaled."""
        cos, sin = rotation
        heads = heads if norm is None else norm(heads)
        rotated = torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
        return rotated if scaling == 1.0 else rotated.mul_(scaling)

    def prepare_attention(self, pack: Pack, group: int, dtype: torch.dtype, device: torch.device) -> PackAttention:
        """Return the causal attention of a pack's sequences, in which `group` query heads share a key head; the same for all layers."""
        return attention_by_sequence(pack, group, dtype, device)

    def score_tokens(self, logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> VocabularyScores:
        """Score tokens [M] under the rows [M] of logits [R, V]; rows ascend, and every row occurs."""
        return token_scoring.score_tokens(logits, rows, tokens)

    def pick_tokens(self, logits: torch.Tensor, sampling: Sampling, u: torch.Tensor, seen: torch.Tensor | None) -> Picked:
        """Sample one token per row of logits [R, V]; arguments as for `token_sampling.pick_tokens`."""
        return token_sampling.pick_tokens(logits, sampling, u, seen)


def attention_by_sequence(pack: Pack, group: int, dtype: torch.dtype, device: torch.device) -> PackAttention:
    """Return the causal attention of a pack, one sequence after the other; arguments as for `Kernels.prepare_attention`."""
    places = [place.to(device) for place in pack.places]
    masks = [_mask(span, len(place), group, dtype, device) for span, place in zip(pack.spans, places, strict=True)]

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)
        for span, place, mask in zip(pack.spans, places, masks, strict=True):
            if span.last == span.first:
                continue
            # [T, H, D] → [1, K, G·T, D]: the queries that share a key head lie side by side, as if they were more positions.
            mine = q[span.first : span.last].unflatten(1, (-1, group)).permute(1, 2, 0, 3).flatten(1, 2)[None]
            keys, values = k[place].transpose(0, 1)[None], v[place].transpose(0, 1)[None]
            done = scaled_dot_product_attention(mine, keys, values, attn_mask=mask, scale=1.0)
            out[span.first : span.last] = done[0].unflatten(1, (group, -1)).permute(2, 0, 1, 3).flatten(1, 2)
        return out

    return attend


def _mask(span: Span, length: int, group: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return [G·T, S]: 0 where a new token may look, −inf after it."""
    new = span.last - span.first
    mask = torch.full((new, length), -torch.inf, dtype=dtype, device=device).triu_(length - new + 1)
    return mask.repeat(group, 1)
