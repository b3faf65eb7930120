"""What is computed between the matrix products of a Llama-like model, and on its logits: one interface, in torch and in C.

Legend of shapes: N tokens, C hidden width, I width of the gate, H heads, K key heads, D width of a head, R rows of logits, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch

from posttrain.diagnose.engines.llama.packs import Pack, PackAttention
from posttrain.diagnose.engines.llama.weights import LayerWeights, RmsNorm
from posttrain.diagnose.engines.token_sampling import Picked
from posttrain.diagnose.engines.token_scoring import VocabularyScores
from posttrain.diagnose.types import Sampling

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of positions, as `rotate` wants them."""


class Kernels(Protocol):
    """The functions beside the matrix products; each layer set has one implementation, chosen when it is built."""

    note: str
    """Why the faster implementation is not used, where it would fit; else empty."""

    def to_hidden(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, C] in the precision in which hidden states are summed from layer to layer."""
        ...

    def add_and_norm(self, hidden: torch.Tensor, delta: torch.Tensor | None, norm: RmsNorm) -> torch.Tensor:
        """Add what a layer gives to the hidden states [N, C], in place, and return them normalised."""
        ...

    def gate(self, layer: LayerWeights, x: torch.Tensor) -> torch.Tensor:
        """Return act(gate(x)) · up(x), [N, I], of x [N, C]."""
        ...

    def prepare_rotation(self, cos: torch.Tensor, sin: torch.Tensor, dtype: torch.dtype) -> Rotation:
        """Prepare fp32 cosines and sines [N, D] for `rotate` of heads in a dtype."""
        ...

    def rotate(self, heads: torch.Tensor, rotation: Rotation, norm: RmsNorm | None, scaling: float) -> torch.Tensor:
        """Return heads [N, H, D] normalised (where there is a norm), rotated and scaled."""
        ...

    def prepare_attention(self, pack: Pack, group: int, dtype: torch.dtype, device: torch.device) -> PackAttention:
        """Return the causal attention of a pack's sequences, in which `group` query heads share a key head; the same for all layers."""
        ...

    def score_tokens(self, logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> VocabularyScores:
        """Score tokens [M] under the rows [M] of logits [R, V]; rows ascend, and every row occurs."""
        ...

    def pick_tokens(self, logits: torch.Tensor, sampling: Sampling, u: torch.Tensor, seen: torch.Tensor | None) -> Picked:
        """Sample one token per row of logits [R, V]; arguments as for `token_sampling.pick_tokens`."""
        ...
