"""The sampling loop: what is in the batch, which tokens are picked, when a sample ends and another takes its place.

The loop knows no model: a decoder prefills prompts and takes steps. What is batched depends on the requests and the settings alone, and the
uniform numbers of a sample on its own name, so the same requests, settings and seed give the same completions.

Legend of shapes: R samples in the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from posttrain.diagnose.engines.base import Completion, OnTokens, SampleRequest
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.engines.limits import cut_at_stop
from posttrain.diagnose.engines.stop_texts import StopMatcher
from posttrain.diagnose.engines.token_sampling import PickTokens, pick_tokens, uniforms
from posttrain.diagnose.types import Sampling, StopReason


class Decoder(Protocol):
    """Holds the keys and values of the samples in a batch, in some order of rows."""

    capacity: int
    """The most rows that it holds."""

    def room(self, prompts: Sequence[tuple[int, ...]]) -> int:
        """Return how many of these waiting prompts to admit now, from the first on; at least one when the batch is empty."""
        ...

    def admit(self, prompts: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Add one row per prompt at the end; equal prompts are neighbours. Return the logits [new rows, V] after them."""
        ...

    def retire(self, rows: Sequence[int]) -> list[int]:
        """Remove rows. Return, for each row that is left, which row it was."""
        ...

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Append a token to every row; return the logits [R, V] after it."""
        ...


@dataclass(slots=True)
class _Sample:
    """A sample under way."""

    request: int
    index: int
    uniforms: npt.NDArray[np.float64]
    token_ids: list[int] = field(default_factory=list)
    policy_logprobs: list[float] = field(default_factory=list)
    sampler_logprobs: list[float] = field(default_factory=list)
    stop: StopReason | None = None
    stop_texts: StopMatcher | None = None


class SamplingLoop:
    """Samples some requests with one decoder."""

    def __init__(self, decoder: Decoder, codec: TextCodec, device: torch.device, pick: PickTokens = pick_tokens):
        """Take what prefills prompts, what decodes text, the device of the logits, and what picks tokens from them."""
        self._decoder, self._codec, self._device, self._pick = decoder, codec, device, pick

    def run(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens
    ) -> list[list[Completion]]:
        """Sample all completions, in the order of the requests and of the samples."""
        done: list[dict[int, Completion]] = [{} for _ in requests]
        # Short prompts first, and the samples of one prompt together: what is read and padded together is then alike.
        order = sorted(range(len(requests)), key=lambda r: (len(requests[r].prompt_ids), requests[r].prompt_ids))
        waiting = [(r, i) for r in order for i in range(requests[r].num_samples)][::-1]
        live: list[_Sample] = []
        logits = torch.empty(0)
        seen: torch.Tensor | None = None
        while waiting or live:
            following = waiting[: -self._decoder.capacity - 1 : -1]
            num = self._decoder.room([requests[r].prompt_ids for r, _ in following]) if waiting else 0
            if num:
                new = [waiting.pop() for _ in range(num)]
                prompts = [requests[r].prompt_ids for r, _ in new]
                first = self._decoder.admit(prompts)
                logits = torch.cat([logits, first]) if live else first
                live += [self._begin(requests, r, i, sampling, seed) for r, i in new]
                if sampling.repetition_penalty != 1.0:
                    marks = _marks(prompts, first)
                    seen = marks if seen is None or len(live) == len(new) else torch.cat([seen, marks])
            u = torch.tensor([sample.uniforms[len(sample.token_ids)] for sample in live], dtype=torch.float64)
            ids, policy, sampler = self._pick(logits, sampling, u.to(self._device), seen)
            on_tokens(len(live))
            values = zip(live, ids.tolist(), policy.tolist(), sampler.tolist(), strict=True)
            for sample, token, policy_logprob, sampler_logprob in values:
                sample.token_ids.append(token)
                sample.policy_logprobs.append(policy_logprob)
                sample.sampler_logprobs.append(sampler_logprob)
                sample.stop = self._stop(sample, sampling)
            if seen is not None:
                seen[torch.arange(len(live), device=self._device), ids] = True
            ended = [row for row, sample in enumerate(live) if sample.stop is not None]
            for row in ended:
                done[live[row].request][live[row].index] = self._completion(live[row], sampling)
            if ended:
                kept = self._decoder.retire(ended)
                live = [live[row] for row in kept]
                moved = torch.tensor(kept, dtype=torch.long, device=self._device)
                ids = ids[moved]
                seen = seen[moved] if seen is not None else None
            if live:
                logits = self._decoder.step(ids)
        return [[of_request[i] for i in range(len(of_request))] for of_request in done]

    def _uniforms(self, request: SampleRequest, i: int, sampling: Sampling, seed: str) -> npt.NDArray[np.float64]:
        if sampling.greedy:
            return np.zeros(sampling.max_tokens)
        return uniforms(seed, request.key, request.first_sample + i, sampling.max_tokens)

    def _begin(self, requests: Sequence[SampleRequest], r: int, i: int, sampling: Sampling, seed: str) -> _Sample:
        sample = _Sample(r, i, self._uniforms(requests[r], i, sampling, seed))
        if sampling.stop:
            sample.stop_texts = StopMatcher(self._codec, sampling.stop)
        return sample

    def _stop(self, sample: _Sample, sampling: Sampling) -> StopReason | None:
        if sample.token_ids[-1] in self._codec.eos_ids:
            return StopReason.EOS
        if sample.stop_texts is not None and sample.stop_texts.found_after(sample.token_ids[-1]):
            return StopReason.STOP
        return StopReason.LENGTH if len(sample.token_ids) == sampling.max_tokens else None

    def _completion(self, sample: _Sample, sampling: Sampling) -> Completion:
        assert sample.stop is not None
        text = self._codec.decode(sample.token_ids)
        return Completion(
            token_ids=tuple(sample.token_ids),
            policy_logprobs=np.array(sample.policy_logprobs, dtype=np.float32),
            sampler_logprobs=np.array(sample.sampler_logprobs, dtype=np.float32),
            stop=sample.stop,
            text=cut_at_stop(text, sampling.stop) if sample.stop is StopReason.STOP else text,
        )


def _marks(prompts: Sequence[tuple[int, ...]], logits: torch.Tensor) -> torch.Tensor:
    """Return [R, V]: which tokens occur in each prompt."""
    marks = torch.zeros(logits.shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        marks[row, torch.tensor(prompt)] = True
    return marks.to(logits.device)
