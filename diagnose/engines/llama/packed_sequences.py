"""Reads packs of sequences with a Llama-like model.

Legend of shapes: N new tokens of a pack, K key heads, D width of a head, C hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packs import Pack, cut_packs

_PREFILL_TOKENS = 4096

OnLayer = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Called with a layer's number and the keys and values [N, K, D] of all new tokens of a pack."""


def read_pack(layers: LlamaLayers, pack: Pack, on_layer: OnLayer | None = None) -> torch.Tensor:
    """Return the hidden states [N, C] of a pack's new tokens."""
    group = layers.num_heads // layers.num_key_heads
    over = layers.kernels.prepare_attention(pack, group, layers.dtype, layers.device)

    def attend(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if on_layer is not None:
            on_layer(number, k, v)
        return over(q, k, v)

    ids, positions = (torch.tensor(x, device=layers.device) for x in (pack.ids, pack.positions))
    return layers.run(ids, positions, attend)


def read_prompts(
    layers: LlamaLayers, prompts: Sequence[tuple[int, ...]]
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Prefill prompts; give of each, in sorted order, its number, the hidden state [C] of its last token, keys and values [layers, K, length, D]."""
    for pack in cut_packs(prompts, _PREFILL_TOKENS):
        hidden, keys, values = _read_keeping(layers, pack)
        for member, place in zip(pack.members, pack.places, strict=True):
            mine = place.to(layers.device)
            yield member, hidden[mine[-1]], keys[:, :, mine], values[:, :, mine]


def _read_keeping(layers: LlamaLayers, pack: Pack) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the hidden states [N, C] of a pack's new tokens, their keys and values [layers, K, N, D]."""
    keys, values = list[torch.Tensor](), list[torch.Tensor]()

    def keep(number: int, k: torch.Tensor, v: torch.Tensor) -> None:
        keys.append(k.transpose(0, 1))
        values.append(v.transpose(0, 1))

    hidden = read_pack(layers, pack, keep)
    return hidden, torch.stack(keys), torch.stack(values)
