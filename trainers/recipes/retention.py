"""Retention: any stage that takes steps, with right answers of the model before training to retained behaviors in every batch.

Sampled: a few completions of their train problems, once, before the first step; those that the verifier calls right are kept, distinct by
text. For a problem that the model no longer does right, samples of the earlier checkpoint serve where one is given.
Credit: none; they are in no group of the stage's own samples.
Loss: (1 − s) · the stage's loss on its own rows + s · −log π(y_t), averaged over the tokens of the retained rows, with s their share of the batch.
Papers: arXiv 1811.11682 (replay against forgetting), 2403.08763 (a small share of replay is enough), 2510.18874 (the policy's own samples).
A batch without a learning signal for the stage takes no step: retention alone is nothing to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.objectives.imitation import RetainedNll
from posttrain.trainers.objectives.reductions import token_mean
from posttrain.trainers.recipes.blocks import as_student, frozen_sampler
from posttrain.trainers.sources.policy import num_tokens, sampler_of
from posttrain.trainers.sources.prepared import Made
from posttrain.trainers.sources.retained import RetainedSource, choose_problems
from posttrain.trainers.sources.verified import select_verified, successes
from posttrain.trainers.stage import Component, Credit, Reduction, RowScorer, Stage, TrainingInputs, Weights
from posttrain.trainers.training_types import RowRole, TrainingRow

RETAINED = frozenset({RowRole.RETAINED})
SAMPLES_FOUND = "retained_samples/"
"""How the names of logged numbers begin that say how many right answers there are of a retained behavior."""


def with_retention(stage: Stage, inputs: TrainingInputs, config: TrainingConfig) -> Stage:
    """Return the stage with rows of the retained behaviors in its batches; the stage itself where none are retained."""
    if inputs.retained is None or config.retain_share == 0:
        return stage
    source = RetainedSource(stage.source, _samples(inputs, config), share=config.retain_share, seed=config.seed)
    own = tuple(_on_own_rows(component, source) for component in stage.components)
    retained = Component(term=RetainedNll(), reduction=token_mean, weight=lambda _: source.share, roles=RETAINED)
    return replace(stage, source=source, components=(*own, retained), credit=_OwnCredit(credit=stage.credit))


def _on_own_rows(component: Component, source: RetainedSource) -> Component:
    """Return a component of the stage that leaves retained rows out, and leaves them their share of the loss."""

    def weight(step: int) -> float:
        return component.weight_at(step) * (1 - source.share)

    reduction = _own_rows_only(component.reduction) if component.whole_batch else component.reduction
    roles = (component.roles or frozenset(RowRole)) - RETAINED
    return replace(component, weight=weight, roles=roles, reduction=reduction)


def _own_rows_only(reduction: Reduction) -> Reduction:
    """Return a reduction over whole batches whose denominator leaves retained rows out."""

    def reduce(rows: Sequence[TrainingRow]) -> list[Weights]:
        weights = iter(reduction([row for row in rows if row.role is not RowRole.RETAINED]))
        return [np.zeros(len(row.completion_ids)) if row.role is RowRole.RETAINED else next(weights) for row in rows]

    return reduce


@dataclass(frozen=True, kw_only=True, slots=True)
class _OwnCredit(Credit):
    """Gives the rows of the stage its credit, and retained rows none."""

    credit: Credit

    def assign(self, rows: Sequence[TrainingRow], score_rows: RowScorer) -> tuple[tuple[TrainingRow, ...], Mapping[str, float]]:
        """Return the rows of the stage as its credit leaves them, and behind them the retained ones."""
        own, metrics = self.credit.assign([row for row in rows if row.role is not RowRole.RETAINED], score_rows)
        return (*own, *(row for row in rows if row.role is RowRole.RETAINED)), metrics


def _samples(inputs: TrainingInputs, config: TrainingConfig) -> Callable[[], Made]:
    """Return what samples the retained behaviors once and keeps right answers, distinct by text."""
    retained = inputs.retained
    assert retained is not None
    success = successes(retained)

    def make() -> Made:
        items = choose_problems(retained.train, config.retain_problems, config.seed)
        sampled = sampler_of(inputs).sample_problems(items, num_samples=config.retain_samples, seed=f"retain|{config.seed}")
        rows = select_verified(sampled, success, config.retain_samples)
        solved = {(row.behavior, row.problem_id) for row in rows}
        lost = [item for item in items if (item.behavior.name, item.problem.id) not in solved]
        generated = num_tokens(sampled)
        if inputs.earlier is not None and lost:
            earlier = frozen_sampler(inputs, inputs.earlier)
            sampled = earlier.sample_problems(lost, num_samples=config.retain_samples, seed=f"retain earlier|{config.seed}")
            rows += map(as_student(inputs, lost), select_verified(sampled, success, config.retain_samples))
            generated += num_tokens(sampled)
        rows = inputs.lengths.fit([_as_retained(row) for row in rows], generated=True)
        found = {name: sum(row.behavior == name for row in rows) for name in retained.behaviors}
        metrics = {f"{SAMPLES_FOUND}{name}": float(number) for name, number in found.items()}
        return rows, metrics | {"generated_tokens": generated}

    return make


def _as_retained(row: TrainingRow) -> TrainingRow:
    """Return a right answer as a row that is imitated and compared with no other."""
    name = f"retained|{row.behavior}/{row.problem_id}"
    return replace(row, role=RowRole.RETAINED, group_id=name, sampler_logprobs=None, reward=None)
