"""Calls attention.c on torch tensors: causal attention of grouped heads over whole sequences, where a processor has matrix units."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from posttrain.diagnose.engines.llama.kernels.arguments import at, heads_at, real, whole
from posttrain.diagnose.engines.llama.kernels.compiler import load_library

_SOURCE = Path(__file__).with_name("attention.c")
WIDTHS = 32
"""The width of a head must be a multiple of it."""


@dataclass(frozen=True, slots=True)
class Places:
    """Sequences whose positions lie somewhere among N lines.

    Args:
        lines: [Σ S] int64: where each position of each sequence lies, one sequence after the other.
        offsets: [sequences + 1] int64: where a sequence begins among these.
        firsts: [sequences] int64: the position from which on there are queries; those before are only seen.
        longest: Positions of the longest sequence.
    """

    lines: torch.Tensor
    offsets: torch.Tensor
    firsts: torch.Tensor
    longest: int

    @classmethod
    def of(cls, places: list[torch.Tensor], firsts: list[int]) -> Places:
        """From the places of each sequence, and the position of its first query."""
        lengths = torch.tensor([0, *map(len, places)])
        return cls(torch.cat(places), lengths.cumsum(0), torch.tensor(firsts), int(lengths.max()))


class AttentionLibrary:
    """The function of attention.c."""

    def __init__(self, library: ctypes.CDLL):
        """Take the loaded library."""
        self._library = library

    def over_places(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, places: Places) -> torch.Tensor:
        """[N, H, D] bf16 of q [N, H, D] and k, v [N, G, D] bf16, whose heads lie one behind the other; 0 where there is no query."""
        out = torch.zeros(q.shape, dtype=torch.bfloat16)
        sizes = (q.shape[1], k.shape[1], q.shape[2])
        self._library.attention_forward(
            whole(len(places.firsts)), whole(places.longest), at(places.offsets), at(places.firsts), at(places.lines), *map(whole, sizes),
            real(scaling), *heads_at(q), *heads_at(k), *heads_at(v), None, at(out), None,
        )  # fmt: skip
        return out

    def over_batch(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scaling: float,
        *,
        length: int,
        segments: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sequences of `length` positions, one behind the other.

        Args:
            q: [B · S, H, D] bf16; the heads of a line lie one behind the other.
            k: [B · S, G, D] bf16.
            v: [B · S, G, D] bf16.
            scaling: Factor of the scores.
            length: S.
            segments: [B, S] int32, or None: a position sees only its own segment and segment 0, as far as it lies before.

        Returns:
            [B · S, H · D] bf16, and the log-normalisers [B, H, S] fp32 of the scores.
        """
        heads = q.shape[1]
        out = torch.empty(len(q), heads * q.shape[2], dtype=torch.bfloat16)
        normalisers = torch.empty(len(q) // length, heads, length)
        self._library.attention_forward(
            whole(len(q) // length), whole(length), None, None, None, *map(whole, (heads, k.shape[1], q.shape[2])),
            real(scaling), *heads_at(q), *heads_at(k), *heads_at(v), at(segments), at(out), at(normalisers),
        )  # fmt: skip
        return out, normalisers


@functools.cache
def load_attention() -> AttentionLibrary | None:
    """The library, or None where it cannot be compiled or the processor has no matrix units that this process may use."""
    library, _ = load_library(_SOURCE)
    return AttentionLibrary(library) if library is not None and library.usable() else None
