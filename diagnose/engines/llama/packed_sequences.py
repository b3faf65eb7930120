"""Reads many sequences at once: no padding, and what several of them begin with is read once.

The sequences of a pack are sorted, so that each begins with what it shares with the one before it; only the rest is new. All new tokens
lie one after the other in the linear layers; attention goes sequence by sequence over the tokens that each consists of.

Legend of shapes: N new tokens of a pack, S tokens of a sequence, T of them new, H query heads, K key heads, D width of a head, C hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from posttrain.diagnose.engines.llama.kernels.attention import WIDTHS, Places, load_attention
from posttrain.diagnose.engines.llama.layers import LlamaLayers

_PREFILL_TOKENS = 4096

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Mean values [N, H, D] of scaled queries [N, H, D], keys and values [N, K, D]."""
OnLayer = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Called with a layer's number and the keys and values [N, K, D] of all new tokens of a pack."""


class _Span(NamedTuple):
    first: int
    last: int
    """The new tokens of a sequence are first … last − 1 of the pack."""


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
    spans: list[_Span]


def packs(sequences: Sequence[tuple[int, ...]], max_tokens: int) -> Iterator[Pack]:
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
        pack.spans.append(_Span(first, len(pack.ids)))
        previous = sequence
    if pack.members:
        yield pack


def read(layers: LlamaLayers, pack: Pack, on_layer: OnLayer | None = None) -> torch.Tensor:
    """Hidden states [N, C] of a pack's new tokens."""
    over = _attention_in_c(pack) if layers.native is not None and layers.width % WIDTHS == 0 else None
    over = over or _attention(layers, pack)

    def attend(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if on_layer is not None:
            on_layer(number, k, v)
        return over(q, k, v)

    ids, positions = (torch.tensor(x, device=layers.device) for x in (pack.ids, pack.positions))
    return layers.run(ids, positions, attend)


def _attention_in_c(pack: Pack) -> Attention | None:
    """All sequences in one call, where this processor has matrix units."""
    library = load_attention()
    if library is None:
        return None
    firsts = [len(place) - (span.last - span.first) for span, place in zip(pack.spans, pack.places, strict=True)]
    places = Places.of(pack.places, firsts)
    return lambda q, k, v: library.over_places(q, k, v, 1.0, places)


def _attention(layers: LlamaLayers, pack: Pack) -> Attention:
    """One sequence after the other."""
    places = [place.to(layers.device) for place in pack.places]
    group = layers.num_heads // layers.num_key_heads
    masks = [_mask(span, len(place), group, layers) for span, place in zip(pack.spans, places, strict=True)]

    def over(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
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

    return over


def read_prompts(
    layers: LlamaLayers, prompts: Sequence[tuple[int, ...]]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of each prompt, in sorted order: its number, the hidden state [C] of its last token, keys and values [layers, K, length, D]."""
    for pack in packs(prompts, _PREFILL_TOKENS):
        hidden, keys, values = _read_keeping(layers, pack)
        for member, place in zip(pack.members, pack.places, strict=True):
            mine = place.to(layers.device)
            yield member, hidden[mine[-1]], keys[:, :, mine], values[:, :, mine]


def _read_keeping(layers: LlamaLayers, pack: Pack) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [N, C] of a pack's new tokens, their keys and values [layers, K, N, D]."""
    keys, values = list[torch.Tensor](), list[torch.Tensor]()

    def keep(number: int, k: torch.Tensor, v: torch.Tensor) -> None:
        keys.append(k.transpose(0, 1))
        values.append(v.transpose(0, 1))

    hidden = read(layers, pack, keep)
    return hidden, torch.stack(keys), torch.stack(values)


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _mask(span: _Span, length: int, group: int, layers: LlamaLayers) -> torch.Tensor:
    """[G·T, S]: 0 where a new token may look, −inf after it."""
    new = span.last - span.first
    mask = torch.full((new, length), -torch.inf, dtype=layers.dtype, device=layers.device).triu_(length - new + 1)
    return mask.repeat(group, 1)
