"""Calls the functions of llama.c on torch tensors."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from posttrain.diagnose.engines.llama.kernels.arguments import at, heads_at, real, whole
from posttrain.diagnose.engines.llama.kernels.compiler import load_library

_SOURCE = Path(__file__).with_name("llama.c")
LANES = 16
"""Tokens that lie together in the layout of keys; widths must be multiples of it."""


class NativeLibrary:
    """The functions of llama.c. Shapes and meanings stand there."""

    def __init__(self, library: ctypes.CDLL):
        """Take the loaded library."""
        self._library = library

    def add_and_norm(self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Add `delta` to the hidden states x [R, C] (fp32, in place) and return them normalised, in bf16."""
        y = torch.empty(x.shape, dtype=torch.bfloat16)
        self._library.add_and_norm(whole(x.shape[0]), whole(x.shape[1]), at(x), at(delta), at(weight), real(epsilon), at(y))
        return y

    def gate(self, gate_and_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up [R, C] of the two side by side [R, 2 C]."""
        lines, width = gate_and_up.shape[0], gate_and_up.shape[1] // 2
        y = torch.empty(lines, width, dtype=torch.bfloat16)
        self._library.gate(whole(lines), whole(width), at(gate_and_up), at(y))
        return y

    def rotate_heads(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        weight: torch.Tensor | None,
        epsilon: float,
        scaling: float,
    ) -> torch.Tensor:
        """Heads [N, H, D] bf16, rotated by cosine and sine [N, D] fp32, normalised before where there is a weight [D], and scaled."""
        y = torch.empty(x.shape, dtype=torch.bfloat16)
        self._library.rotate_heads(
            *map(whole, x.shape), *heads_at(x), *map(at, rotation), at(weight),
            real(epsilon), real(scaling), at(y),
        )  # fmt: skip
        return y

    def attend(
        self,
        qkv: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        norms: tuple[torch.Tensor | None, torch.Tensor | None, float],
        scaling: float,
        layer: int,
        own: tuple[torch.Tensor, torch.Tensor],
        lines: tuple[torch.Tensor, torch.Tensor],
        prompts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Attention [R, H · D] of one layer.

        Args:
            qkv: [R, (H + 2 K) · D] bf16, before rotation.
            rotation: Cosine and sine [R, D] fp32.
            norms: Weights [D] for the heads of queries and keys, or None, and their epsilon.
            scaling: Of the queries.
            layer: Its number.
            own: Keys and values [layers, slots, K, columns, D] bf16 of the samples; the new ones are appended.
            lines: Of each line [R] int64: its slot, and how many tokens it has written.
            prompts: Of each line [R] int64: addresses of its prompt's keys and values, and the length.
        """
        _, slots, key_heads, columns, width = own[0].shape
        heads = qkv.shape[1] // width - 2 * key_heads
        out = torch.empty(qkv.shape[0], heads * width, dtype=torch.bfloat16)
        failed = self._library.attend(
            *map(whole, (qkv.shape[0], heads, key_heads, width, slots, layer)), at(qkv), *map(at, rotation), at(norms[0]), at(norms[1]),
            real(norms[2]), real(scaling), *map(at, own), whole(columns), *map(at, (*lines, *prompts)), at(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("attention: no memory for the scores")
        return out

    def score_tokens(
        self, logits: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of tokens [M] after rows [M] of bf16 logits [R, V]: log-probability, rank, mass above, the most likely one's log-probability."""
        logprob, mass, top = torch.empty(3, len(tokens)).unbind()
        rank = torch.empty(len(tokens), dtype=torch.int32)
        self._library.score_tokens(
            whole(len(tokens)), whole(logits.shape[1]), *map(at, (logits, rows, tokens, logprob, rank, mass, top))
        )
        return logprob, rank, mass, top

    def draw(self, logits: torch.Tensor, u: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A token per row of bf16 logits [R, V] by inversion with u [R] float64; ids [R], log-probabilities of policy and sampler [R]."""
        ids = torch.empty(len(logits), dtype=torch.long)
        policy, sampler = torch.empty(2, len(logits)).unbind()
        failed = self._library.draw(
            whole(len(logits)), whole(logits.shape[1]), at(logits), at(u), real(temperature), at(ids), at(policy), at(sampler)
        )
        if failed:
            raise MemoryError("draw: no memory for the sums of blocks")
        return ids, policy, sampler


@functools.cache
def load_native() -> tuple[NativeLibrary | None, str]:
    """The library, or None and why there is none."""
    library, reason = load_library(_SOURCE)
    return (None if library is None else NativeLibrary(library)), reason
