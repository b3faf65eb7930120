"""Causal attention of grouped heads on AMX tiles: calls amx_attention.c on torch tensors, where a processor has them."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch

from posttrain.diagnose.engines.llama.kernels.c_arguments import heads_pointer, int64, pointer
from posttrain.diagnose.engines.llama.kernels.compiler import load_library
from posttrain.diagnose.engines.llama.packs import Pack, PackAttention

_SOURCE = Path(__file__).with_name("amx_attention.c")
WIDTHS = 32
"""The width of a head must be a multiple of it."""


class AmxAttention:
    """The function of amx_attention.c."""

    def __init__(self, library: ctypes.CDLL):
        """Take the loaded library."""
        self._library = library

    def of_pack(self, pack: Pack) -> PackAttention:
        """Return the attention of a pack's sequences, all in one call; the queries are scaled already."""
        lengths = torch.tensor([0, *map(len, pack.places)])
        firsts = torch.tensor(
            [len(place) - (span.last - span.first) for span, place in zip(pack.spans, pack.places, strict=True)]
        )
        places, offsets, longest = torch.cat(pack.places), lengths.cumsum(0), int(lengths.max())

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(q.shape, dtype=torch.bfloat16)
            self._library.attention_forward(
                int64(len(firsts)), int64(longest), pointer(offsets), pointer(firsts), pointer(places),
                *map(int64, (q.shape[1], k.shape[1], q.shape[2])), *heads_pointer(q), *heads_pointer(k), *heads_pointer(v), pointer(out),
            )  # fmt: skip
            return out

        return attend


@functools.cache
def load_amx_attention() -> AmxAttention | None:
    """Compile and load amx_attention.c; None where that fails, or where this process may not use AMX tiles."""
    library, _ = load_library(_SOURCE)
    return AmxAttention(library) if library is not None and library.usable() else None
