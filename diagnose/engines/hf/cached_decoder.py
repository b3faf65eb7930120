"""Decodes samples of any Hugging Face causal language model, through its own forward function and cache.

Every distinct prompt is read once and its keys and values are copied to its samples; the cache is allocated once where the model attends
to everything. A batch is filled when it is empty, because all its rows must have been padded to one length.

Legend of shapes: B rows of a batch, H key heads, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from posttrain.diagnose.engines.limits import first_line, first_position
from posttrain.diagnose.errors import ModelError

_PREFILL_TOKENS = 8192
_ROWS = 256
_CACHED_TOKENS = 2**19
# Rows whose sample has ended stay until this share of the batch has: moving keys and values costs more than a few idle rows.
_IDLE = 0.25
_LIKE = {torch.float32: 0.999, torch.bfloat16: 0.95}
"""Cosine of logits from which they are the same distribution but for rounding, and another choice of experts that it may bring about."""

Prompt = tuple[int, ...]


class CachedDecoder:
    """See `Decoder`."""

    def __init__(self, model: PreTrainedModel, *, max_tokens: int, capacity: int = _ROWS, cached_tokens: int = _CACHED_TOKENS):
        """Open an empty batch.

        Args:
            model: Any causal language model.
            max_tokens: How many tokens a sample can have.
            capacity: How many samples may be in the batch.
            cached_tokens: How many tokens, padding counted, the cache may hold.
        """
        self._model, self._room, self.capacity, self._cached_tokens = model, max_tokens, capacity, cached_tokens
        self._place: list[int] = []
        """The row of the cache that holds each row of the batch."""

    def room(self, prompts: Sequence[Prompt]) -> int:
        """See `Decoder`."""
        if self._place:
            return 0
        longest = accumulate(map(len, prompts), max)
        fits = sum((i + 1) * (length + self._room) <= self._cached_tokens for i, length in enumerate(longest))
        return min(max(1, fits), self.capacity, len(prompts))

    def admit(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """See `Decoder`."""
        device = self._model.device
        distinct = list(dict.fromkeys(prompts))
        longest = max(map(len, distinct))
        self._cache, logits = self._read(distinct, longest)
        numbers = {prompt: i for i, prompt in enumerate(distinct)}
        owner = torch.tensor([numbers[prompt] for prompt in prompts], device=device)
        _select(self._cache, owner)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns = torch.arange(longest + self._room, device=device)
        self._mask = (columns[None, :] >= (longest - lengths)[:, None]).long()
        self._positions, self._filled = lengths, longest
        self._place, self._num_cached = list(range(len(prompts))), len(prompts)
        return logits[owner]

    def retire(self, rows: Sequence[int]) -> list[int]:
        """See `Decoder`."""
        gone = set(rows)
        kept = [row for row in range(len(self._place)) if row not in gone]
        self._place = [self._place[row] for row in kept]
        if self._place and len(self._place) <= (1 - _IDLE) * self._num_cached:
            left = torch.tensor(self._place, device=self._model.device)
            _select(self._cache, left)
            self._mask, self._positions = self._mask[left], self._positions[left]
            self._place, self._num_cached = list(range(len(left))), len(left)
        return kept

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """See `Decoder`."""
        rows = torch.tensor(self._place, device=ids.device)
        fed = torch.zeros(self._num_cached, dtype=torch.long, device=ids.device)
        fed[rows] = ids
        self._filled += 1
        logits = self._model(
            input_ids=fed[:, None],
            attention_mask=self._mask[:, : self._filled],
            position_ids=self._positions[:, None] + first_position(self._model.config),
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]
        self._positions = self._positions + 1
        return logits if len(rows) == self._num_cached else logits[rows]

    def _read(self, prompts: list[Prompt], longest: int) -> tuple[Cache, torch.Tensor]:
        """Prefill prompts, padded on the left; return the cache and the logits [., V] after each prompt."""
        per_chunk = max(1, _PREFILL_TOKENS // longest)
        caches, logits = [], []
        for start in range(0, len(prompts), per_chunk):
            inputs = padded_left(prompts[start : start + per_chunk], longest, self._model)
            cache = _new_cache(self._model, longest + self._room)
            out = self._model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            caches.append(cache)
            logits.append(out.logits[:, -1])
        return _concatenate(caches), torch.cat(logits)


def require_cached_decoding(model: PreTrainedModel) -> None:
    """Refuse a model whose samples would come from another distribution than its own: one with a recurrent state beside its cache.

    A few tokens are decoded as samples are (padded prompts, rows that end, one token at a time) and compared with the plain forward pass.

    Raises:
        ModelError: It cannot be decoded so, or gives other logits.
    """
    prompts, fed = [(1, 2, 3, 4, 5), (6, 7, 3), (6, 7, 3), (6, 7, 3)], [4, 5, 1]
    try:
        decoder = CachedDecoder(model, max_tokens=len(fed))
        found = [decoder.admit(prompts)]
        kept = [prompts[row] for row in decoder.retire([0])]
        found.append(decoder.step(torch.tensor(fed, device=model.device)))
        rows = [*prompts, *((*prompt, token) for prompt, token in zip(kept, fed, strict=True))]
        plain = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False).logits[0, -1] for row in rows]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _not_decodable(model, f"{type(error).__name__}: {first_line(error)}") from error
    like = torch.cosine_similarity(_centered(torch.cat(found)), _centered(torch.stack(plain)), dim=-1)
    if not bool((like > _LIKE.get(model.dtype, min(_LIKE.values()))).all()):
        raise _not_decodable(model, "one token at a time it gives other logits than in one pass")


def _centered(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.float()
    return logits - logits.mean(-1, keepdim=True)


def _not_decodable(model: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"model of type {model.config.model_type}: the transformers engine samples from a cache of keys and values, which does not hold the "
        f"state of this one ({why}); use --engine vllm, or a stage that learns from given rows, such as sft",
        code="not_decodable",
    )


def padded_left(rows: Sequence[Prompt], width: int, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return what a model reads of rows that all end in the last column: input_ids, attention_mask and position_ids [B, width]."""
    ids, mask = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    for n, row in enumerate(rows):
        ids[n, width - len(row) :] = torch.tensor(row)
        mask[n, width - len(row) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0) + first_position(model.config)
    found = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(model.device) for name, tensor in found.items()}


class _RoomyLayer(DynamicLayer):
    """One layer's keys and values [B, H, room, D], allocated once and filled from the left."""

    def __init__(self, room: int):
        super().__init__()
        self.room, self.filled = room, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        shape = key_states.shape
        self._keys = key_states.new_empty(shape[0], shape[1], self.room, shape[3])
        self._values = value_states.new_empty(shape[0], shape[1], self.room, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.filled + key_states.shape[2]
        self._keys[:, :, self.filled : end] = key_states
        self._values[:, :, self.filled : end] = value_states
        self.filled = end
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.filled

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows (repeats allowed), in this order."""
        old_keys, old_values, end = self._keys, self._values, self.filled
        self._keys = old_keys.new_empty(len(rows), *old_keys.shape[1:])
        self._values = old_values.new_empty(len(rows), *old_values.shape[1:])
        self._keys[:, :, :end] = old_keys[rows, :, :end]
        self._values[:, :, :end] = old_values[rows, :, :end]
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]


def _new_cache(model: PreTrainedModel, room: int) -> Cache:
    """Make a cache with its room allocated once where the model's layers are all plain attention, else the model's own kind."""
    default = DynamicCache(config=model.config)
    if default.layers and all(type(layer) is DynamicLayer for layer in default.layers):
        return Cache(layers=[_RoomyLayer(room) for _ in default.layers])
    return default


def _select(cache: Cache, rows: torch.Tensor) -> None:
    for layer in cache.layers:
        if isinstance(layer, _RoomyLayer):
            layer.select(rows)
        else:
            layer.batch_select_indices(rows)


def _concatenate(caches: list[Cache]) -> Cache:
    """Put the rows of several caches of equal length into one."""
    first = caches[0]
    if len(caches) == 1:
        return first
    for number, layer in enumerate(first.layers):
        parts = [cache.layers[number] for cache in caches]
        if isinstance(layer, _RoomyLayer):
            layer._keys = torch.cat([part._keys for part in parts])
            layer._values = torch.cat([part._values for part in parts])
            layer.keys, layer.values = layer._keys[:, :, : layer.filled], layer._values[:, :, : layer.filled]
        else:
            layer.keys = torch.cat([part.keys for part in parts])
            layer.values = torch.cat([part.values for part in parts])
    return first
