"""Decodes samples of Llama-like models in bfloat16 on a processor; between the matrix products everything is done in C.

Keys and values of a prompt are held once for all its samples, those of a sample in a slot of its own; so a sample that ends leaves at
once and another takes its place, without moving anything. Hidden states are kept in fp32 from layer to layer.

Legend of shapes: R lines of the batch, H query heads, K key heads, D width of a head, C hidden width, V vocabulary, S slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding, pad

from posttrain.diagnose.engines.llama.kernels import LANES
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packed_sequences import read_prompts

_LINES = 256
# Each for the keys and values of prompts and for those of samples.
_CACHE_BYTES = 4 * 2**30

Prompt = tuple[int, ...]


@dataclass(slots=True)
class _Read:
    """A prompt's keys [layers, K, tiles, D, 16] and values [layers, K, length, D], and how many lines go on from it."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int
    num_lines: int


@dataclass(slots=True)
class _Line:
    prompt: Prompt
    slot: int
    written: int = 0


class NativeDecoder:
    """See `Decoder`."""

    def __init__(self, layers: LlamaLayers, *, max_tokens: int, capacity: int = _LINES):
        """Take layers with `native`, how many tokens a sample can have, and how many may be in the batch if memory allows."""
        assert layers.native is not None
        self._layers, self._native = layers, layers.native
        columns = -(-max_tokens // LANES) * LANES
        self.capacity = max(1, min(capacity, _CACHE_BYTES // (layers.token_bytes * columns)))
        shape = (layers.num_layers, self.capacity, layers.num_key_heads, columns, layers.width)
        # Memory that is never written is never taken.
        self._own = torch.empty(shape, dtype=layers.dtype), torch.empty(shape, dtype=layers.dtype)
        self._free = list(range(self.capacity))[::-1]
        self._lines: list[_Line] = []
        self._prompts: dict[Prompt, _Read] = {}

    def room(self, prompts: Sequence[Prompt]) -> int:
        """See `Decoder`: an eighth of the lines at a time or all that wait, since to read few prompts costs nearly as much as to read many."""
        free = min(len(self._free), len(prompts))
        enough = min(max(1, self.capacity // 8), len(prompts))
        if free < enough:
            return 0
        left = _CACHE_BYTES // self._layers.token_bytes - sum(read.length for read in self._prompts.values())
        held, num = set(self._prompts), 0
        for prompt in prompts[:free]:
            left -= 0 if prompt in held else len(prompt)
            if left < 0:
                break
            held.add(prompt)
            num += 1
        if self._lines:
            return num if num >= enough else 0
        return max(1, num)

    def admit(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """See `Decoder`."""
        counts = Counter(prompts)
        logits = self._read(list(counts))
        for prompt, num in counts.items():
            self._prompts[prompt].num_lines += num
        self._lines += [_Line(prompt, self._free.pop()) for prompt in prompts]
        rows = {prompt: row for row, prompt in enumerate(counts)}
        return logits[torch.tensor([rows[prompt] for prompt in prompts])]

    def retire(self, lines: Sequence[int]) -> list[int]:
        """See `Decoder`."""
        gone = set(lines)
        for number in gone:
            line = self._lines[number]
            self._free.append(line.slot)
            held = self._prompts[line.prompt]
            held.num_lines -= 1
            if not held.num_lines:
                del self._prompts[line.prompt]
        kept = [number for number in range(len(self._lines)) if number not in gone]
        self._lines = [self._lines[number] for number in kept]
        return kept

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        layers, native = self._layers, self._native
        held = [self._prompts[line.prompt] for line in self._lines]
        slots, written = (torch.tensor(x) for x in ([line.slot for line in self._lines], [line.written for line in self._lines]))
        lengths = torch.tensor([read.length for read in held])
        prompts = (
            torch.tensor([read.keys.data_ptr() for read in held]),
            torch.tensor([read.values.data_ptr() for read in held]),
            lengths,
        )
        rotation = layers.rotation(lengths + written, torch.float32)
        hidden, delta = layers.hidden(embedding(ids, layers.embedding)), None
        for number, layer in enumerate(layers.layers):
            qkv = layer.qkv.joined(hidden.normed(layer.input_norm, delta))
            attended = native.attend(
                qkv, rotation, layer.head_norms, layers.scaling, number, self._own, (slots, written), prompts
            )
            delta = layer.down.joined(layers.gate(layer, hidden.normed(layer.post_norm, layer.out.joined(attended))))
        for line in self._lines:
            line.written += 1
        return layers.project(hidden.normed(layers.norm, delta))

    def _read(self, prompts: list[Prompt]) -> torch.Tensor:
        """Read prompts and lay out their keys and values, where they are not held; returns the logits [., V] after each."""
        layers = self._layers
        last_hidden: dict[int, torch.Tensor] = {}
        for member, last, keys, values in read_prompts(layers, prompts):
            last_hidden[member] = last
            if prompts[member] not in self._prompts:
                self._prompts[prompts[member]] = _Read(_tiles(keys), values, keys.shape[2], 0)
        return layers.project(torch.stack([last_hidden[i] for i in range(len(prompts))]))


def _tiles(keys: torch.Tensor) -> torch.Tensor:
    """[layers, K, length, D] as [layers, K, tiles, D, 16], padded with zeros."""
    padded = pad(keys, (0, 0, 0, -keys.shape[2] % LANES))
    return padded.unflatten(2, (-1, LANES)).transpose(3, 4).contiguous()
