"""The embedded engine: any Hugging Face causal language model, on a processor or one GPU.

Sampling: every distinct prompt is read once and its keys and values are shared out to its samples; finished rows leave the batch; the
cache is allocated once per batch. Scoring: batches by length, the vocabulary projected only where a path token stands.

Legend of shapes: B rows of a batch, L prompt length, T generated or path tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import __version__ as transformers_version
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from posttrain.diagnose.engines.base import (
    Completion,
    EncodedPath,
    EncodedPrompt,
    EngineInfo,
    OnTokens,
    SampleRequest,
    ScoreRequest,
    TokenScores,
    ignore_tokens,
)
from posttrain.diagnose.engines.drawing import draw, uniforms
from posttrain.diagnose.engines.grouped_attention import use_grouped_attention
from posttrain.diagnose.engines.hardware import has_fast_bf16
from posttrain.diagnose.engines.loading import fingerprint_model, load_model, load_tokenizer
from posttrain.diagnose.engines.text import TextCodec
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Message, PromptFormat, Reference, Sampling, StopReason

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_MAX_ROWS = 256
_PREFILL_TOKENS = 8192
_SCORE_LOGITS = 2**26
_LARGE_MODEL = 2 * 10**9
# Mean |sampler − scorer| per token that precision alone explains: fp32 in other batch shapes moves a log-probability by 1e-5, bf16 by
# about .02 on average (8 bits of mantissa on logits of size 20).
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`, `float32`, `bfloat16` or `float16` as a dtype; auto is bfloat16 where that is fast."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise SettingsError(f"dtype: got {name!r}, allowed are auto, {', '.join(known)}")
    return known[name]


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


class TransformersEngine:
    """Samples and scores with Hugging Face transformers."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        model_fingerprint: str,
        sample_dtype: str = "auto",
        score_dtype: str = "auto",
    ):
        """Wrap loaded weights; use `open` or `from_model`.

        Args:
            model: The weights; they are used as they are for scoring, and copied where sampling wants another precision.
            tokenizer: A fast tokenizer.
            name: What people call the model.
            model_fingerprint: Hash of the weights and the tokenizer.
            sample_dtype: Precision of sampling; auto is bfloat16 where the hardware has units for it.
            score_dtype: Precision of scoring; auto is the model's own.
        """
        self.model = model
        self.device = model.device
        score = model.dtype if score_dtype == "auto" else pick_dtype(score_dtype, self.device)
        if score != model.dtype:
            raise SettingsError(f"score_dtype: got {score_dtype} for weights in {model.dtype}; load the model in that precision")
        sample = pick_dtype(sample_dtype, self.device)
        self._sampling_model = model if sample == model.dtype else copy.deepcopy(model).to(sample).eval()
        use_grouped_attention(self._sampling_model)
        eos = {tokenizer.eos_token_id} | set(_as_list(getattr(model.generation_config, "eos_token_id", None)))
        self.eos_ids = frozenset(int(i) for i in eos if i is not None)
        self.codec = TextCodec(tokenizer, self.eos_ids)
        self.tokenizer = tokenizer
        fingerprint = hashlib.sha256(f"transformers:{model_fingerprint}:{sample}:{score}".encode()).hexdigest()[:16]
        self.info = EngineInfo(
            name="transformers",
            model=name,
            model_fingerprint=model_fingerprint,
            fingerprint=fingerprint,
            sample_dtype=str(sample).removeprefix("torch."),
            score_dtype=str(score).removeprefix("torch."),
            device=str(self.device),
            versions={"torch": torch.__version__, "transformers": transformers_version},
            logprob_tolerance=max(_TOLERANCE.get(sample, 1e-3), _TOLERANCE.get(score, 1e-3)),
        )

    @classmethod
    def open(cls, source: str, *, sample_dtype: str = "auto", device: str = "auto") -> TransformersEngine:
        """Load a MODEL: a directory, a GGUF file or a hub id. Scores in fp32 up to two billion weights, in bf16 above."""
        fingerprint = fingerprint_model(source)
        model = load_model(source, dtype=torch.float32)
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if sum(p.numel() for p in model.parameters()) > _LARGE_MODEL:
            model = model.to(torch.bfloat16)
        return cls(model.to(place), load_tokenizer(source), name=source, model_fingerprint=fingerprint, sample_dtype=sample_dtype)

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sample_dtype: str = "auto",
        name: str = "live",
        model_fingerprint: str = "live",
    ) -> TransformersEngine:
        """Share live weights with a trainer; call `refresh` after every update."""
        return cls(model, tokenizer, name=name, model_fingerprint=model_fingerprint, sample_dtype=sample_dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the live weights into the sampling copy, where there is one."""
        if self._sampling_model is not self.model:
            for mine, live in zip(self._sampling_model.parameters(), self.model.parameters(), strict=True):
                mine.copy_(live)
            for mine, live in zip(self._sampling_model.buffers(), self.model.buffers(), strict=True):
                mine.copy_(live)

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        """See `Engine`."""
        return self.codec.encode_prompt(prompt, prompt_format)

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        """See `Engine`."""
        return self.codec.encode_path(prompt, reference)

    # ------------------------------------------------------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """See `Engine`. What is batched together depends on the requests alone."""
        results: list[list[Completion | None]] = [[None] * request.num_samples for request in requests]
        rows = [(r, i) for r, request in enumerate(requests) for i in range(request.num_samples)]
        rows.sort(key=lambda row: len(requests[row[0]].prompt_ids))  # stable: rows of one prompt stay together
        was_training = self._sampling_model.training
        self._sampling_model.eval()
        for start in range(0, len(rows), _MAX_ROWS):
            batch = rows[start : start + _MAX_ROWS]
            for (r, i), completion in zip(batch, self._sample_batch(requests, batch, sampling, seed, on_tokens), strict=True):
                results[r][i] = completion
        self._sampling_model.train(was_training)
        return [[completion for completion in row if completion is not None] for row in results]

    def _sample_batch(
        self, requests: Sequence[SampleRequest], rows: list[tuple[int, int]], sampling: Sampling, seed: str, on_tokens: OnTokens
    ) -> list[Completion]:
        room = sampling.max_tokens
        distinct = sorted({r for r, _ in rows}, key=lambda r: len(requests[r].prompt_ids))
        number = {r: n for n, r in enumerate(distinct)}
        owner = torch.tensor([number[r] for r, _ in rows], device=self.device)
        prompts = [requests[r].prompt_ids for r in distinct]
        longest = max(map(len, prompts))
        cache, logits = self._prefill(prompts, longest, room)
        _select(cache, owner)
        logits = logits[owner]
        lengths = torch.tensor([len(p) for p in prompts], device=self.device)[owner]
        columns = torch.arange(longest + room, device=self.device)
        mask = (columns[None, :] >= (longest - lengths)[:, None]).long()
        u = torch.from_numpy(
            np.stack([uniforms(seed, requests[r].key, requests[r].first_sample + i, room) for r, i in rows])
            if not sampling.greedy
            else np.zeros((len(rows), room))
        ).to(self.device)
        history = None
        if sampling.repetition_penalty != 1.0:
            history = torch.full((len(rows), longest + room), -1, device=self.device)
            for n, (r, _) in enumerate(rows):
                history[n, longest - len(requests[r].prompt_ids) : longest] = torch.tensor(
                    requests[r].prompt_ids, device=self.device
                )

        # `place` says which row each line of the batch is. Lines whose row has ended stay until a quarter of the batch has: moving
        # keys and values costs more than a few idle lines.
        place, ended = list(range(len(rows))), [False] * len(rows)
        tokens = torch.zeros(len(rows), room, dtype=torch.long)
        policy = torch.zeros(len(rows), room)
        sampler = torch.zeros(len(rows), room)
        count = [0] * len(rows)
        stops = [StopReason.LENGTH] * len(rows)
        for t in range(room):
            ids, policy_logprobs, sampler_logprobs = draw(logits, sampling, u[:, t], history)
            tokens[place, t], policy[place, t], sampler[place, t] = ids.cpu(), policy_logprobs.cpu(), sampler_logprobs.cpu()
            on_tokens(sum(not ended[row] for row in place))
            for row, token in zip(place, ids.tolist(), strict=True):
                if ended[row]:
                    continue
                count[row] = t + 1
                if token in self.eos_ids:
                    stops[row], ended[row] = StopReason.EOS, True
                elif sampling.stop and self._hits_stop(tokens[row, : t + 1].tolist(), sampling.stop):
                    stops[row], ended[row] = StopReason.STOP, True
            keep = [line for line, row in enumerate(place) if not ended[row]]
            if not keep or t + 1 == room:
                break
            if len(keep) <= 0.75 * len(place):
                kept = torch.tensor(keep, device=self.device)
                place = [place[line] for line in keep]
                ids, u, mask, lengths = ids[kept], u[kept], mask[kept], lengths[kept]
                history = history[kept] if history is not None else None
                _select(cache, kept)
            if history is not None:
                history[:, longest + t] = ids
            logits = self._sampling_model(
                input_ids=ids[:, None],
                attention_mask=mask[:, : longest + t + 1],
                position_ids=(lengths + t)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
        return [
            Completion(
                token_ids=tuple(tokens[n, : count[n]].tolist()),
                policy_logprobs=policy[n, : count[n]].numpy().copy(),
                sampler_logprobs=sampler[n, : count[n]].numpy().copy(),
                stop=stops[n],
                text=self._text(tokens[n, : count[n]].tolist(), stops[n], sampling.stop),
            )
            for n in range(len(rows))
        ]

    def _prefill(self, prompts: list[tuple[int, ...]], longest: int, room: int) -> tuple[Cache, torch.Tensor]:
        """Read prompts, padded on the left; returns the cache and the logits [B, V] after each prompt."""
        per_chunk = max(1, _PREFILL_TOKENS // longest)
        caches, logits = [], []
        for start in range(0, len(prompts), per_chunk):
            part = prompts[start : start + per_chunk]
            ids = torch.zeros(len(part), longest, dtype=torch.long)
            mask = torch.zeros(len(part), longest, dtype=torch.long)
            for n, prompt in enumerate(part):
                ids[n, longest - len(prompt) :] = torch.tensor(prompt)
                mask[n, longest - len(prompt) :] = 1
            cache = _new_cache(self._sampling_model, longest + room)
            out = self._sampling_model(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(self.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            caches.append(cache)
            logits.append(out.logits[:, -1])
        return _concatenate(caches), torch.cat(logits)

    def _hits_stop(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        # A stop text may span tokens: look at the end of the text, a little more than the longest stop text.
        tail = self.codec.decode(ids[-(max(map(len, stop)) + 4) :])
        return any(text in tail for text in stop)

    def _text(self, ids: list[int], stop: StopReason, stops: tuple[str, ...]) -> str:
        text = self.codec.decode(ids)
        if stop is StopReason.STOP:
            cuts = [text.find(s) for s in stops if s in text]
            text = text[: min(cuts)] if cuts else text
        return text

    # ------------------------------------------------------------------------------------------------------------- scoring

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """See `Engine`."""
        results: list[TokenScores | None] = [None] * len(requests)
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].path_ids), len(requests[i].prompt_ids)))
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        was_training = self.model.training
        self.model.eval()
        position = 0
        while position < len(order):
            # Rows are taken in order of length; the batch grows while its logits [B, T, V] and its tokens stay below fixed sizes.
            size = 1
            longest = len(requests[order[position]].prompt_ids)
            while position + size < len(order):
                following = requests[order[position + size]]
                longest = max(longest, len(following.prompt_ids))
                path = len(following.path_ids)
                if (size + 1) * (path + 1) * vocabulary > _SCORE_LOGITS or (size + 1) * (longest + path) > _PREFILL_TOKENS:
                    break
                size += 1
            batch = order[position : position + size]
            for i, scores in zip(batch, self._score_batch([requests[i] for i in batch]), strict=True):
                results[i] = scores
                on_tokens(len(scores.logprobs))
            position += size
        self.model.train(was_training)
        return [scores for scores in results if scores is not None]

    def _score_batch(self, requests: list[ScoreRequest]) -> list[TokenScores]:
        rows = [(*request.prompt_ids, *request.path_ids) for request in requests]
        longest, longest_path = max(map(len, rows)), max(len(request.path_ids) for request in requests)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for n, row in enumerate(rows):  # padded on the left, so that all paths end in the last column
            ids[n, longest - len(row) :] = torch.tensor(row)
            mask[n, longest - len(row) :] = 1
        ids = ids.to(self.device)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask.to(self.device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(self.device),
            logits_to_keep=longest_path + 1,
            use_cache=False,
        ).logits[:, :-1]
        chosen = logits.gather(-1, ids[:, -longest_path:, None]).float()
        # One row at a time: a [T, V] comparison is small, a [B, T, V] copy in fp32 is not.
        logprobs, ranks = [], []
        for row, value in zip(logits, chosen, strict=True):
            scores = row.float()
            logprobs.append((value[:, 0] - scores.logsumexp(-1)).cpu().numpy())
            ranks.append((scores > value).sum(-1).to(torch.int32).cpu().numpy())
        lengths = [len(request.path_ids) for request in requests]
        return [
            TokenScores(logprobs=lp[len(lp) - t :].astype(np.float32), ranks=rank[len(rank) - t :])
            for lp, rank, t in zip(logprobs, ranks, lengths, strict=True)
        ]


def _as_list(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _new_cache(model: PreTrainedModel, room: int) -> Cache:
    """A cache with its room allocated once where the model's layers are all plain attention, else the model's own kind."""
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
