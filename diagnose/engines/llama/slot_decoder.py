"""Decodes samples of Llama-like models on a processor, with the kernels in C.

Keys and values of a prompt are held once for all its samples, those of a sample in a slot of its own; so a sample that ends leaves at
once and another takes its place, without moving anything.

Legend of shapes: R rows of the batch, H query heads, K key heads, D width of a head, C hidden width, V vocabulary, S slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from posttrain.diagnose.engines.llama.kernels.c_kernels import CKernels, SlotStep
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packed_sequences import read_prompts

_ROWS = 256
# Each for the keys and values of prompts and for those of samples.
_CACHE_BYTES = 4 * 2**30

Prompt = tuple[int, ...]


@dataclass(slots=True)
class _Prompt:
    """A prompt's keys [layers, K, tiles, D, lanes] and values [layers, K, length, D], and how many rows go on from it."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int
    num_rows: int


@dataclass(slots=True)
class _Row:
    prompt: Prompt
    slot: int
    num_written: int = 0


class SlotDecoder:
    """See `Decoder`."""

    def __init__(
        self,
        layers: LlamaLayers,
        kernels: CKernels,
        *,
        max_tokens: int,
        capacity: int = _ROWS,
        prompt_bytes: int = _CACHE_BYTES,
    ):
        """Open an empty batch.

        Args:
            layers: Computed by `kernels`.
            kernels: Attend to keys and values in slots.
            max_tokens: How many tokens a sample can have.
            capacity: How many samples may be in the batch if memory allows.
            prompt_bytes: Memory for the keys and values of prompts.
        """
        self._layers, self._kernels, self._prompt_bytes = layers, kernels, prompt_bytes
        columns = -(-max_tokens // kernels.lanes) * kernels.lanes
        self.capacity = max(1, min(capacity, _CACHE_BYTES // (layers.token_bytes * columns)))
        shape = (layers.num_layers, self.capacity, layers.num_key_heads, columns, layers.width)
        # Memory that is never written is never taken.
        self._own = torch.empty(shape, dtype=layers.dtype), torch.empty(shape, dtype=layers.dtype)
        self._free = list(range(self.capacity))[::-1]
        self._rows: list[_Row] = []
        self._prompts: dict[Prompt, _Prompt] = {}

    def room(self, prompts: Sequence[Prompt]) -> int:
        """See `Decoder`: an eighth of the rows at a time or all that wait, since to read few prompts costs nearly as much as to read many."""
        free = min(len(self._free), len(prompts))
        enough = min(max(1, self.capacity // 8), len(prompts))
        if free < enough:
            return 0
        left = self._prompt_bytes // self._layers.token_bytes - sum(prompt.length for prompt in self._prompts.values())
        held, num = set(self._prompts), 0
        for prompt in prompts[:free]:
            left -= 0 if prompt in held else len(prompt)
            if left < 0:
                break
            held.add(prompt)
            num += 1
        if self._rows:
            return num if num >= enough else 0
        return max(1, num)

    def admit(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """See `Decoder`."""
        counts = Counter(prompts)
        logits = self._read(list(counts))
        for prompt, num in counts.items():
            self._prompts[prompt].num_rows += num
        self._rows += [_Row(prompt, self._free.pop()) for prompt in prompts]
        places = {prompt: place for place, prompt in enumerate(counts)}
        return logits[torch.tensor([places[prompt] for prompt in prompts])]

    def retire(self, rows: Sequence[int]) -> list[int]:
        """See `Decoder`."""
        gone = set(rows)
        for number in gone:
            row = self._rows[number]
            self._free.append(row.slot)
            held = self._prompts[row.prompt]
            held.num_rows -= 1
            if not held.num_rows:
                del self._prompts[row.prompt]
        kept = [number for number in range(len(self._rows)) if number not in gone]
        self._rows = [self._rows[number] for number in kept]
        return kept

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        layers, kernels = self._layers, self._kernels
        step = self._next_step()
        hidden, delta = layers.embed(ids), None
        for number, layer in enumerate(layers.layers):
            qkv = layer.qkv.joined(kernels.add_and_norm(hidden, delta, layer.input_norm))
            attended = kernels.attend(number, qkv, (layer.q_norm, layer.k_norm), step)
            delta = layer.out.joined(attended)
            delta = layer.down.joined(kernels.gate(layer, kernels.add_and_norm(hidden, delta, layer.post_norm)))
        for row in self._rows:
            row.num_written += 1
        return layers.project(kernels.add_and_norm(hidden, delta, layers.norm))

    def _next_step(self) -> SlotStep:
        held = [self._prompts[row.prompt] for row in self._rows]
        num_written = torch.tensor([row.num_written for row in self._rows])
        lengths = torch.tensor([prompt.length for prompt in held])
        return SlotStep(
            rotation=self._layers.rotation(lengths + num_written),
            scaling=self._layers.scaling,
            own_keys=self._own[0],
            own_values=self._own[1],
            slots=torch.tensor([row.slot for row in self._rows]),
            num_written=num_written,
            prompt_keys=torch.tensor([prompt.keys.data_ptr() for prompt in held]),
            prompt_values=torch.tensor([prompt.values.data_ptr() for prompt in held]),
            prompt_lengths=lengths,
        )

    def _read(self, prompts: list[Prompt]) -> torch.Tensor:
        """Prefill prompts and lay out their keys and values, where they are not held; return the logits [., V] after each."""
        layers = self._layers
        last_hidden: dict[int, torch.Tensor] = {}
        for member, last, keys, values in read_prompts(layers, prompts):
            last_hidden[member] = last
            if prompts[member] not in self._prompts:
                self._prompts[prompts[member]] = _Prompt(tile_keys(keys, self._kernels.lanes), values, keys.shape[2], 0)
        return layers.project(torch.stack([last_hidden[i] for i in range(len(prompts))]))


def tile_keys(keys: torch.Tensor, lanes: int) -> torch.Tensor:
    """Lay out [layers, K, length, D] as [layers, K, tiles, D, lanes], padded with zeros."""
    padded = pad(keys, (0, 0, 0, -keys.shape[2] % lanes))
    return padded.unflatten(2, (-1, lanes)).transpose(3, 4).contiguous()
