"""Packs of sequences that are read together: no padding, and what several of them begin with is read once.

The sequences of a pack are sorted, so that each begins with what it shares with the one before it; only its other tokens are new. All new
tokens lie one after the other in the linear layers; attention goes sequence by sequence over the tokens that each consists of.

Legend of shapes: N new tokens of a pack, S tokens of a sequence, T of them new, H query heads, K key heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

PackAttention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Gives mean values [N, H, D] of scaled queries [N, H, D], keys and values [N, K, D]."""


class Span(NamedTuple):
    """The new tokens of a sequence: first … last − 1 of the pack."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Sequences that are read together."""

    members: list[int]
    """Which of the sequences they are, in sorted order."""
    ids: list[int]
    positions: list[int]
    """[N] tokens and their places in their sequences."""
    places: list[torch.Tensor]
    """Per member [S]: where each of its tokens lies among the N."""
    spans: list[Span]


def cut_packs(sequences: Sequence[tuple[int, ...]], max_tokens: int) -> Iterator[Pack]:
    """Sort sequences and cut them into packs of about `max_tokens` new tokens; every pack holds at least one sequence."""
    pack = Pack([], [], [], [], [])
    previous: tuple[int, ...] = ()
    for member in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        sequence = sequences[member]
        shared = _shared(previous, sequence)
        if pack.members and len(pack.ids) + len(sequence) - shared > max_tokens:
            yield pack
            pack, shared = Pack([], [], [], [], []), 0
        first = len(pack.ids)
        own = torch.arange(first, first + len(sequence) - shared)
        pack.places.append(torch.cat([pack.places[-1][:shared], own]) if shared else own)
        pack.members.append(member)
        pack.ids.extend(sequence[shared:])
        pack.positions.extend(range(shared, len(sequence)))
        pack.spans.append(Span(first, len(pack.ids)))
        previous = sequence
    if pack.members:
        yield pack


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
