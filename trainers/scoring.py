"""Collects the scores that the terms of a stage ask for; each model runs forward once per micro-batch, however many terms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from posttrain.diagnose.types import Floats
from posttrain.trainers.logprobs import Shortcuts, token_logprobs
from posttrain.trainers.packing import MicroBatch
from posttrain.trainers.stage import Score, Term, TokenScores
from posttrain.trainers.types import TrainingRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """Runs the models that a stage needs."""

    model: PreTrainedModel
    shortcuts: Shortcuts
    dtype: torch.dtype
    needs: frozenset[Score]
    reference: PreTrainedModel | None
    """A frozen copy of the model before training, made only where a term asks for it."""

    @classmethod
    def for_terms(cls, model: PreTrainedModel, terms: Sequence[Term], shortcuts: Shortcuts, dtype: torch.dtype) -> Scorer:
        """A scorer for what these terms need."""
        needs = frozenset[Score]().union(*(term.needs for term in terms))
        reference = None
        if Score.REFERENCE in needs:
            reference = copy.deepcopy(model)
            reference.requires_grad_(False)
        return cls(model=model, shortcuts=shortcuts, dtype=dtype, needs=needs, reference=reference)

    def score(self, rows: Sequence[TrainingRow], batch: MicroBatch, old: dict[int, Tensor]) -> TokenScores:
        """Score the N tokens of a micro-batch.

        Args:
            rows: The rows of the whole optimizer batch.
            batch: On the model's device; its `rows` index into `rows`.
            old: Row index → [T] policy log-probabilities before the first step on this optimizer batch. Filled in on the first
                pass (when they are the policy's own, detached) and read afterwards.

        Raises:
            ValueError: A term needs the sampler's log-probabilities and a row has none.
        """
        device = batch.input_ids.device
        policy, entropy = token_logprobs(self.model, batch, self.shortcuts, dtype=self.dtype, entropy=Score.ENTROPY in self.needs)
        for index, values in zip(batch.rows, policy.detach().split(list(batch.lengths)), strict=True):
            old.setdefault(index, values)
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference = token_logprobs(self.reference, batch, self.shortcuts, dtype=self.dtype).logprobs
        sampled = [rows[index].sampler_logprobs for index in batch.rows]
        if Score.SAMPLER in self.needs and any(values is None for values in sampled):
            raise ValueError("a term needs the sampler's log-probabilities, and a row has none")
        return TokenScores(
            policy=policy,
            advantages=_concatenate([rows[index].advantages for index in batch.rows], batch.lengths, 0.0, policy),
            sequence=torch.repeat_interleave(torch.arange(len(batch.rows)), torch.tensor(batch.lengths)).to(device),
            old=torch.cat([old[index] for index in batch.rows]),
            sampler=_concatenate(sampled, batch.lengths, float("nan"), policy),
            reference=reference,
            entropy=entropy,
        )


def _concatenate(values: Sequence[Floats | None], lengths: Sequence[int], missing: float, like: Tensor) -> Tensor:
    """[N] in the dtype and on the device of `like`; rows without values get `missing`."""
    parts = [
        np.full(length, missing) if value is None else np.asarray(value) for value, length in zip(values, lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts).astype(np.float64)).to(device=like.device, dtype=like.dtype)
