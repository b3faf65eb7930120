"""One optimizer step: micro-batches forward and backward, one clipped AdamW update, or a reason why there was none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.stage import Component, ForwardScores, Level, Weights
from posttrain.trainers.step.forward_scores import ForwardScorer
from posttrain.trainers.step.means import MetricMeans
from posttrain.trainers.step.optimizer import clip_gradient, width_of
from posttrain.trainers.step.packing import MicroBatch, RowPack, collate, heaviest_load, pack_rows, plan_process_batches
from posttrain.trainers.training_types import RowRole, TrainingRow


class StepStatus(StrEnum):
    """The outcome of a step."""

    UPDATED = "updated"
    NO_SIGNAL = "no_signal"
    """Only a regularizer applies to the batch. AdamW's momentum alone would move the weights, so there is no step."""
    NON_FINITE = "non_finite"
    """A loss or gradient was NaN or infinite; the weights are as they were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepOutcome:
    """The outcome of a step, with its numbers."""

    status: StepStatus
    loss: float = float("nan")
    grad_norm: float = float("nan")
    """Before clipping."""
    trained_tokens: int = 0
    """Completion tokens that ran backward."""
    input_tokens: int = 0
    """Tokens that ran through the model, shared prompts once."""
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepper:
    """Takes the optimizer steps of a stage, whichever it is."""

    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    scorer: ForwardScorer
    components: tuple[Component, ...]
    config: TrainingConfig

    def step(self, rows: Sequence[TrainingRow], old: dict[int, Tensor], number: int = 0) -> StepOutcome:
        """Take one optimizer step on a batch.

        Args:
            rows: The whole optimizer batch, advantages filled in.
            old: See `ForwardScorer.score`; empty on the first step on these rows.
            number: Of the batch, from 0; weights of components may change with it.
        """
        if not any(_acts(one, row, number) for one in self.components if not one.term.regularizer for row in rows):
            return StepOutcome(status=StepStatus.NO_SIGNAL)
        self.optimizer.zero_grad(set_to_none=True)
        outcome = self.accumulate(rows, old, number)
        if outcome.status is StepStatus.NON_FINITE:
            self.optimizer.zero_grad(set_to_none=True)
            return outcome
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return outcome

    def share_with_signal(self, rows: Sequence[TrainingRow], number: int = 0) -> float:
        """Return the share of the groups of a batch to which a term other than a regularizer applies; retained rows are no groups."""
        groups = {row.group_id for row in rows if row.role is not RowRole.RETAINED}
        with_signal = {
            row.group_id for one in self.components if not one.term.regularizer for row in rows if _acts(one, row, number)
        }
        return len(with_signal) / len(groups) if groups else 0.0

    def accumulate(self, rows: Sequence[TrainingRow], old: dict[int, Tensor], number: int = 0) -> StepOutcome:
        """Leave the clipped gradient of the batch in the parameters."""
        weights = [_token_weights(component, rows) for component in self.components]
        paired = any(component.term.level is Level.PAIR for component in self.components)
        active = _active(self.components, rows, number, paired=paired)
        processes, sums = self.scorer.processes, _Sums()
        packs = self._pack(rows, active, paired=paired, num_shares=processes.size)
        for group, counts in plan_process_batches(
            packs, self.config.micro_batch_tokens, rank=processes.rank, size=processes.size
        ):
            batch = collate(group).to(self.model.device)
            if counts:
                value = self._micro_batch_loss(rows, batch, weights, old, sums.means, number)
                sums.add(_Sums(float(value.detach()), len(batch.targets), batch.num_input_tokens))
            else:
                value = 0.0 * self._micro_batch_loss(rows, batch, weights, {}, MetricMeans(), number)
            value.backward()
        norm = clip_gradient(self.optimizer, self.config.max_grad_norm)
        total = _Sums()
        for share in processes.all_gather(sums):
            total.add(share)
        return StepOutcome(
            status=StepStatus.UPDATED if math.isfinite(total.loss) and math.isfinite(norm) else StepStatus.NON_FINITE,
            loss=total.loss,
            grad_norm=norm,
            trained_tokens=total.trained_tokens,
            input_tokens=total.input_tokens,
            metrics=total.means.result(),
        )

    def _pack(self, rows: Sequence[TrainingRow], active: Sequence[int], *, paired: bool, num_shares: int) -> list[RowPack]:
        """Return packs of the active rows; a prompt is run more than once where that lowers the largest load of a process."""
        pack = partial(
            pack_rows,
            rows,
            active,
            share=self.scorer.policy.shortcuts.shared_prefixes,
            hidden_size=width_of(self.model),
            keep_groups=paired,
        )
        weigh = partial(heaviest_load, size=num_shares)
        packs = pack(max_tokens=self.config.micro_batch_tokens)
        even = -(-sum(one.length for one in packs) // num_shares)
        if weigh(packs) <= even:
            return packs
        return min(packs, pack(max_tokens=min(even, self.config.micro_batch_tokens)), key=weigh)

    def _micro_batch_loss(
        self,
        rows: Sequence[TrainingRow],
        batch: MicroBatch,
        token_weights: Sequence[Mapping[int, Weights]],
        old: dict[int, Tensor],
        means: MetricMeans,
        number: int,
    ) -> Tensor:
        scores = self.scorer.score(rows, batch, old)
        total = scores.policy.sum() * 0.0
        for component, known in zip(self.components, token_weights, strict=True):
            weight = component.weight_at(number)
            members = [index for index in batch.rows if index in known]
            if weight == 0.0 or not members:
                continue
            own, _ = scores.of_roles(component.roles)
            term_loss = component.term.loss(own)
            factors = torch.from_numpy(np.concatenate([known[index] for index in members])).to(term_loss.losses)
            total = total + weight * (factors * term_loss.losses).sum()
            for name, values in term_loss.metrics.items():
                means.add(name, values)
        _log_sampler_gap(scores, means)
        return total


@dataclass(slots=True)
class _Sums:
    """Sums over the micro-batches of a step."""

    loss: float = 0.0
    trained_tokens: int = 0
    input_tokens: int = 0
    means: MetricMeans = field(default_factory=MetricMeans)

    def add(self, other: _Sums) -> None:
        self.loss += other.loss
        self.trained_tokens += other.trained_tokens
        self.input_tokens += other.input_tokens
        self.means.include(other.means)


def _acts(component: Component, row: TrainingRow, number: int) -> bool:
    return component.weight_at(number) != 0.0 and component.applies_to(row) and component.term.applies_to(row)


def _active(components: Sequence[Component], rows: Sequence[TrainingRow], number: int, *, paired: bool) -> list[int]:
    """Return the rows to run; of a pair both or none."""
    active = [index for index, row in enumerate(rows) if any(_acts(component, row, number) for component in components)]
    if not paired:
        return active
    groups = {rows[index].group_id for index in active}
    return [index for index, row in enumerate(rows) if row.group_id in groups]


def _token_weights(component: Component, rows: Sequence[TrainingRow]) -> dict[int, Weights]:
    """Return row index → the weights of its losses; of a pair only the chosen row has one."""
    members = [index for index, row in enumerate(rows) if component.applies_to(row)]
    if component.term.level is Level.PAIR:
        members = [index for index in members if rows[index].role is RowRole.CHOSEN]
    if component.whole_batch:
        every = component.reduction(rows)
        return {index: every[index] for index in members}
    return dict(zip(members, component.reduction([rows[index] for index in members]), strict=True))


def _log_sampler_gap(scores: ForwardScores, means: MetricMeans) -> None:
    """Log the mean |sampler − trainer| log-probability per token: the difference in precision, or a bug where it is large."""
    if scores.sampler is None or scores.old is None:
        return
    gaps = (scores.sampler - scores.old).abs()
    gaps = gaps[~gaps.isnan()]
    if gaps.numel():
        means.add("sampler_gap", gaps)
