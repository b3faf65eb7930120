"""Decodes samples of Llama-like models; the keys and values of a prompt are held once for all its samples.

Attention has two parts, merged by their normalisers (as in arXiv 2402.05099): one over the prompt, a product of the queries of all its
samples with its keys, and one over what the sample itself has written. Samples that were admitted together have written equally much, so
their own keys and values lie in one block without padding; the linear layers see the samples of all blocks at once. A sample that ends
leaves at once: the last one of its block moves into its place.

Legend of shapes: R rows of the batch, n rows of a block, W columns of a block, P prompts of a prefix group, M most samples of one of them,
L length of the longest, H query heads, K key heads, G = H / K, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import pad

from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.packed_sequences import read_prompts

_ROWS = 256
# Each for the keys and values of prompts and for those of samples.
_CACHE_BYTES = 4 * 2**30
_COLUMNS = 8
# Prompts of a group are divided anew where padding to the one with the most samples makes more than this many times the work.
_WASTE = 2

Prompt = tuple[int, ...]


class SharedPrefixDecoder:
    """See `Decoder`."""

    def __init__(self, layers: LlamaLayers, *, max_tokens: int, capacity: int = _ROWS, prompt_bytes: int = _CACHE_BYTES):
        """Open an empty batch.

        Args:
            layers: Those of the model.
            max_tokens: How many tokens a sample can have.
            capacity: How many samples may be in the batch if memory allows.
            prompt_bytes: Memory for the keys and values of prompts.
        """
        self._layers, self._prompt_bytes = layers, prompt_bytes
        self.capacity = max(1, min(capacity, _CACHE_BYTES // (layers.token_bytes * max_tokens)))
        self._blocks: list[_Block] = []
        self._prefixes: list[_Prefix] = []
        self._num_prompts = 0
        self._owner: list[int] = []
        """The number of each row's prompt."""
        self._positions = torch.empty(0, dtype=torch.long, device=layers.device)
        self._padded_row = self._positions

    def room(self, prompts: Sequence[Prompt]) -> int:
        """See `Decoder`: a quarter of the rows at a time or all that wait, so that blocks stay few and large."""
        free = min(self.capacity - len(self._owner), len(prompts))
        if free < min(max(1, self.capacity // 4), len(prompts)):
            return 0
        left = self._prompt_bytes // self._layers.token_bytes - sum(prefix.num_tokens for prefix in self._prefixes)
        previous, num = None, 0
        for prompt in prompts[:free]:
            left -= len(prompt) if prompt != previous else 0
            if left < 0:
                break
            previous, num = prompt, num + 1
        if self._owner:
            return num if num >= min(self.capacity // 4, len(prompts)) else 0
        return max(1, num)

    def admit(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """See `Decoder`."""
        layers, counts = self._layers, Counter(prompts)
        numbers = {prompt: self._num_prompts + i for i, prompt in enumerate(counts)}
        self._num_prompts += len(counts)
        logits = self._read(list(counts), [*counts.values()], [*numbers.values()])
        self._blocks.append(_Block(len(prompts), layers))
        self._owner += [numbers[prompt] for prompt in prompts]
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=layers.device)
        self._positions = torch.cat([self._positions, lengths])
        self._arrange()
        places = {prompt: i for i, prompt in enumerate(counts)}
        return logits[torch.tensor([places[prompt] for prompt in prompts], device=layers.device)]

    def retire(self, rows: Sequence[int]) -> list[int]:
        """See `Decoder`."""
        gone, kept, first = set(rows), list[int](), 0
        for block in self._blocks:
            order = _close_gaps(block.num_rows, {row - first for row in gone})
            kept += [first + row for row in order]
            first += block.num_rows
            block.keep(order)
        self._blocks = [block for block in self._blocks if block.num_rows]
        self._owner = [self._owner[row] for row in kept]
        self._positions = self._positions[torch.tensor(kept, dtype=torch.long, device=self._layers.device)]
        self._arrange()
        return kept

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        hidden = self._layers.run(ids, self._positions, self._attend)
        self._positions = self._positions + 1
        for block in self._blocks:
            block.filled += 1
        return self._layers.project(hidden)

    def _attend(self, number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q = q.unflatten(1, (k.shape[1], -1))
        own, first = [], 0
        for block in self._blocks:
            last = first + block.num_rows
            own.append(block.attend(number, q[first:last], k[first:last], v[first:last]))
            first = last
        of_prompts = [prefix.attend(number, q) for prefix in self._prefixes]
        out, normaliser = (_cat(parts) for parts in zip(*own, strict=True))
        of_prompt, prompt_normaliser = (_cat(parts).index_select(0, self._padded_row) for parts in zip(*of_prompts, strict=True))
        share = (prompt_normaliser - normaliser).sigmoid_().to(out.dtype)
        return torch.lerp(out, of_prompt, share).flatten(1, 2)

    def _read(self, prompts: list[Prompt], counts: list[int], numbers: list[int]) -> torch.Tensor:
        """Prefill prompts and put their keys and values into groups of like size; return the logits [., V] after each."""
        layers = self._layers
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        last_hidden: dict[int, torch.Tensor] = {}
        for member, last, keys, values in read_prompts(layers, prompts):
            last_hidden[member], found[member] = last, (keys, values)
        alike = defaultdict(list)
        for i, prompt in enumerate(prompts):
            alike[counts[i].bit_length(), len(prompt).bit_length()].append(i)
        for group in alike.values():
            longest = max(len(prompts[i]) for i in group)
            keys, values = (
                torch.stack([pad(found[i][which], (0, 0, 0, longest - len(prompts[i]))) for i in group], dim=1)
                for which in range(2)
            )
            lengths = torch.tensor([len(prompts[i]) for i in group], device=layers.device)
            self._prefixes.append(_Prefix([numbers[i] for i in group], keys, values, lengths))
        return layers.project(torch.stack([last_hidden[i] for i in range(len(prompts))]))

    def _arrange(self) -> None:
        """Find, after rows have come or gone, which of them belong to each group's prompts."""
        rows = defaultdict(list)
        for row, prompt in enumerate(self._owner):
            rows[prompt].append(row)
        counts = {prompt: len(found) for prompt, found in rows.items()}
        self._prefixes = [part for prefix in self._prefixes for part in prefix.divided(counts)]
        padded = torch.empty(len(self._owner), dtype=torch.long)
        first = 0
        for prefix in self._prefixes:
            most = max(counts.get(prompt, 0) for prompt in prefix.prompts)
            index = torch.zeros(len(prefix.prompts), most, dtype=torch.long)
            for place, prompt in enumerate(prefix.prompts):
                mine = torch.tensor(rows[prompt], dtype=torch.long)
                index[place, : len(mine)] = mine
                padded[mine] = first + place * most + torch.arange(len(mine))
            prefix.index = index.to(self._layers.device)
            first += index.numel()
        self._padded_row = padded.to(self._layers.device)


class _Block:
    """What samples that were admitted together have written: keys and values [layers, n, K, W, D], W growing."""

    def __init__(self, num_rows: int, layers: LlamaLayers):
        self.num_rows, self.filled = num_rows, 0
        shape = (layers.num_layers, num_rows, layers.num_key_heads, _COLUMNS, layers.width)
        self._keys, self._values = (torch.zeros(shape, dtype=layers.dtype, device=layers.device) for _ in range(2))

    def attend(self, number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values [n, K, D] and attend with q [n, K, G, D]; return [n, K, G, D] and the normalisers' logarithms [n, K, G, 1]."""
        if self.filled == self._keys.shape[3]:
            more = max(_COLUMNS, self.filled // 4)
            self._keys, self._values = (pad(x[:, : self.num_rows], (0, 0, 0, more)) for x in (self._keys, self._values))
        keys, values = self._keys[number, : self.num_rows], self._values[number, : self.num_rows]
        keys[:, :, self.filled], values[:, :, self.filled] = k, v
        scores = (q @ keys.transpose(-1, -2)).float()
        scores[..., self.filled + 1 :] = -torch.inf
        return _average(scores, values)

    def keep(self, order: list[int]) -> None:
        """Put row order[i] at place i, and forget those beyond."""
        self.num_rows = len(order)
        moved = [(to, row) for to, row in enumerate(order) if to != row]
        if moved:
            to, row = torch.tensor(moved, device=self._keys.device).T
            self._keys[:, to], self._values[:, to] = self._keys[:, row], self._values[:, row]


class _Prefix:
    """Prompts of like length with a like number of samples: keys and values [layers, P, K, L, D], padded on the right."""

    index: torch.Tensor
    """[P, M] the rows of each prompt's samples, padded with row 0."""

    def __init__(self, prompts: list[int], keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor):
        self.prompts, self._keys, self._values, self._lengths = prompts, keys, values, lengths
        self.num_tokens = len(prompts) * keys.shape[3]
        beyond = torch.arange(keys.shape[3], device=keys.device) >= lengths[:, None]
        self._beyond = beyond[:, None, None] if bool(beyond.any()) else None

    def attend(self, number: int, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend with the queries [R, K, G, D] of all rows; return [P·M, K, G, D] and the normalisers' logarithms [P·M, K, G, 1]."""
        (prompts, most), (key_heads, group, width) = self.index.shape, q.shape[1:]
        mine = q.index_select(0, self.index.flatten()).view(prompts, most, key_heads, group, width)
        mine = mine.transpose(1, 2).reshape(prompts, key_heads, most * group, width)
        scores = (mine @ self._keys[number].transpose(-1, -2)).float()
        if self._beyond is not None:
            scores.masked_fill_(self._beyond, -torch.inf)
        found = _average(scores, self._values[number])
        out, normaliser = (x.view(prompts, key_heads, most, group, -1).transpose(1, 2).flatten(0, 1) for x in found)
        return out, normaliser

    def divided(self, counts: dict[int, int]) -> Iterable[_Prefix]:
        """Divide itself, where padding has become too much, into groups of prompts with a like number of samples; drop those without."""
        live = [counts.get(prompt, 0) for prompt in self.prompts]
        if not any(live):
            return []
        if max(live) * len(live) <= _WASTE * sum(live):
            return [self]
        alike = defaultdict(list)
        for row, num in enumerate(live):
            if num:
                alike[num.bit_length()].append(row)
        return [self._select(rows) for rows in alike.values()]

    def _select(self, rows: list[int]) -> _Prefix:
        lengths = self._lengths[rows]
        longest = int(lengths.max())
        keys, values = (x[:, rows, :, :longest] for x in (self._keys, self._values))
        return _Prefix([self.prompts[row] for row in rows], keys, values, lengths)


def _average(scores: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Average values under the softmax of fp32 scores, and return the logarithm of its normaliser too."""
    normaliser = scores.logsumexp(-1, keepdim=True)
    return (scores - normaliser).exp_().to(values.dtype) @ values, normaliser


def _cat(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _close_gaps(num: int, gone: set[int]) -> list[int]:
    """Return rows 0 … num − 1 without those that are gone; the last ones fill the gaps."""
    order, place = list(range(num)), 0
    while place < len(order):
        if order[-1] in gone:
            order.pop()
        else:
            if order[place] in gone:
                order[place] = order.pop()
            place += 1
    return order
