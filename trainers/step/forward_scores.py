"""The scores that the terms of a stage need; each model runs forward once per micro-batch, however many terms there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain.diagnose.types import Floats
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.stage import Divergences, ForwardScores, Score
from posttrain.trainers.step.chunked_divergence import divergence
from posttrain.trainers.step.gradient_checkpointing import with_gradient_checkpointing
from posttrain.trainers.step.logprobs import Shortcuts, States, logprobs_of, run_model
from posttrain.trainers.step.packing import MicroBatch, RowPack, collate, pack_rows, plan_process_batches
from posttrain.trainers.training_types import TrainingRow

NO_TOKEN = -30.0
"""Log-probability, in nats, of an id of the policy's padded vocabulary that the teacher does not have; no text becomes such an id."""
MAX_TOKENS = 4096
"""Padded input tokens of one forward pass without a gradient."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringModel:
    """A model that scores tokens, with the shortcuts that it allows."""

    model: PreTrainedModel
    shortcuts: Shortcuts
    without_adapter: Callable[[], AbstractContextManager[None]] | None = None
    """Takes the adapter off within a block, where the model has one."""

    @torch.no_grad()
    def frozen_states(self, batch: MicroBatch, dtype: torch.dtype) -> States:
        """Run the model over a micro-batch, without its adapter and without a gradient."""
        with nullcontext() if self.without_adapter is None else self.without_adapter():
            return run_model(self.model, batch, self.shortcuts, dtype=dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardScorer:
    """Runs the models that a stage needs."""

    policy: ScoringModel
    """The model in training."""
    dtype: torch.dtype
    needs: frozenset[Score]
    processes: ProcessGroup = field(default_factory=ProcessGroup)
    reference: ScoringModel | None = None
    """The model before training, where a term or an evaluation needs it: a copy, or the model without its adapter."""
    teacher: ScoringModel | None = None
    """Where a term needs one; the model before training where no other is given."""
    scalar_head: nn.Linear | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model in training."""
        return self.policy.model

    @property
    def own_modules(self) -> list[nn.Module]:
        """The modules that no engine runs, so that each of several processes can hold a shard; a teacher's engine needs the full teacher."""
        reference = None if self.reference is None else self.reference.model
        own = [module for module in (self.policy.model, reference, self.scalar_head) if module is not None]
        return list(dict.fromkeys(own))  # with an adapter the reference is the model

    def score(self, rows: Sequence[TrainingRow], batch: MicroBatch, old: dict[int, Tensor]) -> ForwardScores:
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
        with with_gradient_checkpointing(self.model):
            states = self._run(batch)
        if Score.POLICY in self.needs:
            policy, entropy = logprobs_of(states, batch.targets, entropy=Score.ENTROPY in self.needs)
        else:  # no term needs the vocabulary
            policy, entropy = torch.zeros(len(batch.targets), device=device), None
        for index, values in zip(batch.rows, policy.detach().split(list(batch.lengths)), strict=True):
            old.setdefault(index, values)
        reference = teacher = None
        divergences: Divergences | None = None
        if Score.REFERENCE in self.needs:
            assert self.reference is not None
            reference = self._frozen_logprobs(self.reference, batch)
        if self.teacher is not None:
            seen = _for_teacher(rows, batch)
            teacher_states = self.teacher.frozen_states(seen, self.dtype)
            if Score.TEACHER in self.needs:
                teacher = self._teacher_logprobs(teacher_states, seen.targets)
            divergences = self._divergences(states, teacher_states)
        own = tuple(rows[index] for index in batch.rows)
        sampled = [row.sampler_logprobs for row in own]
        if Score.SAMPLER in self.needs and any(
            values is None and row.role == "sample" for values, row in zip(sampled, own, strict=True)
        ):
            raise ValueError("a term needs the sampler's log-probabilities, and a row has none")
        return ForwardScores(
            rows=own,
            policy=policy,
            advantages=_concatenate([row.advantages for row in own], batch.lengths, 0.0, policy),
            sequence=torch.repeat_interleave(torch.arange(len(own)), torch.tensor(batch.lengths)).to(device),
            old=torch.cat([old[index] for index in batch.rows]),
            sampler=_concatenate(sampled, batch.lengths, float("nan"), policy),
            reference=reference,
            teacher=teacher,
            entropy=entropy,
            value=self._values(states) if Score.VALUE in self.needs else None,
            divergence=divergences,
        )

    def score_rows(self, rows: Sequence[TrainingRow], score: Score) -> list[Floats]:
        """Return [T] numbers of each row without a gradient: `Score.POLICY`, `REFERENCE`, `TEACHER` or `VALUE`."""
        mine: dict[int, Floats] = {}
        processes = self.processes
        packs = pack_rows(rows, range(len(rows)), share=False, hidden_size=1, max_tokens=MAX_TOKENS)
        with torch.no_grad():
            for group, _ in plan_process_batches(packs, MAX_TOKENS, rank=processes.rank, size=processes.size):
                batch = collate(group).to(self.model.device)
                if score is Score.TEACHER:
                    assert self.teacher is not None
                    seen = _for_teacher(rows, batch)
                    values = self._teacher_logprobs(self.teacher.frozen_states(seen, self.dtype), seen.targets)
                elif score is Score.REFERENCE:
                    assert self.reference is not None
                    values = self._frozen_logprobs(self.reference, batch)
                else:
                    states = self._run(batch)
                    values = self._values(states) if score is Score.VALUE else logprobs_of(states, batch.targets).logprobs
                for index, part in zip(batch.rows, values.split(list(batch.lengths)), strict=True):
                    mine[index] = part.float().cpu().numpy()
        found = {index: values for share in reversed(processes.all_gather(mine)) for index, values in share.items()}
        return [found[index] for index in range(len(rows))]

    def _run(self, batch: MicroBatch) -> States:
        return run_model(self.model, batch, self.policy.shortcuts, dtype=self.dtype, with_hidden=Score.VALUE in self.needs)

    def _frozen_logprobs(self, frozen: ScoringModel, batch: MicroBatch) -> Tensor:
        with torch.no_grad():
            return logprobs_of(frozen.frozen_states(batch, self.dtype), batch.targets).logprobs

    @property
    def _shared_ids(self) -> int | None:
        """How many ids policy and teacher both have, where their padded vocabularies differ; the others have no tokens."""
        assert self.teacher is not None
        widths = [len(model.get_output_embeddings().weight) for model in (self.model, self.teacher.model)]
        return None if widths[0] == widths[1] else min(widths)

    @torch.no_grad()
    def _teacher_logprobs(self, states: States, targets: Tensor) -> Tensor:
        """Return what the teacher gives to tokens [N], over the ids that both have."""
        if (shared := self._shared_ids) is None:
            return logprobs_of(states, targets).logprobs
        found = logprobs_of(states.over_first(shared), targets.clamp(max=shared - 1)).logprobs
        return torch.where(targets < shared, found, NO_TOKEN)

    def _divergences(self, states: States, teacher: States) -> Divergences:
        """Return the divergences over the ids that both have, each distribution renormalised."""
        if (shared := self._shared_ids) is not None:
            states, teacher = states.over_first(shared), teacher.over_first(shared)
        return lambda beta, temperature: divergence(states, teacher, beta=beta, temperature=temperature)

    def _values(self, states: States) -> Tensor:
        assert self.scalar_head is not None
        values: Tensor = self.scalar_head(states.hidden.to(self.scalar_head.weight.dtype))[:, 0]
        return values


def _for_teacher(rows: Sequence[TrainingRow], batch: MicroBatch) -> MicroBatch:
    """Return the same completions in the same order, behind the prompts that the teacher reads."""
    if all(rows[index].teacher_prompt_ids is None for index in batch.rows):
        return batch
    packs = [
        RowPack(
            prompt_ids=rows[index].teacher_prompt_ids or rows[index].prompt_ids,
            rows=(index,),
            completions=(rows[index].completion_ids,),
        )
        for index in batch.rows
    ]
    return collate(packs).to(batch.input_ids.device)


def _concatenate(values: Sequence[Floats | None], lengths: Sequence[int], missing: float, like: Tensor) -> Tensor:
    """Return [N] in the dtype and on the device of `like`; rows without values get `missing`."""
    parts = [
        np.full(length, missing) if value is None else np.asarray(value) for value, length in zip(values, lengths, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts).astype(np.float64)).to(device=like.device, dtype=like.dtype)
