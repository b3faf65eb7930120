"""What losses, gradients and credit are held against: formulas on plain per-row log-probabilities, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import gradient as helper_gradient
from helpers.training import plain_logprobs, random_rows
from torch import Tensor

from posttrain.diagnose.types import Split
from posttrain.trainers.models.heads import scalar_head
from posttrain.trainers.recipes.grpo import GrpoConfig
from posttrain.trainers.stage import Component, FrozenModel, Score, Stage, TrainingInputs
from posttrain.trainers.step.optimizer_step import StepOutcome, Stepper
from posttrain.trainers.training.preparation import make_stepper
from posttrain.trainers.training_types import RowRole, TrainingRow


def stepper_of(model: Any, *components: Component, teacher: Any = None, head: Any = None, **settings: Any) -> Stepper:
    config = GrpoConfig(**{"max_grad_norm": 1e9, "autocast": "float32", "micro_batch_tokens": 60, **settings})
    other = teacher and FrozenModel(source="", fingerprint="", model=teacher, tokenizer=None, engine=None)
    inputs = TrainingInputs(engine=None, training_set=None, graders={}, model=model, tokenizer=None, teacher=other)
    return make_stepper(Stage(source=None, components=components, scalar_head=head), inputs, config)


def check(stepper: Stepper, rows: Sequence[TrainingRow], wanted: Tensor, old: Mapping[int, Tensor] | None = None) -> StepOutcome:
    """Check that the loss and every gradient of a batch equal those of a formula."""
    model = stepper.model
    wanted.backward()
    gradient = helper_gradient(model)
    model.zero_grad()
    outcome = stepper.accumulate(rows, dict(old or {}))
    assert outcome.loss == pytest.approx(float(wanted.detach()), rel=1e-10, abs=1e-12)
    got = helper_gradient(model)
    for name, value in gradient.items():
        torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-11)
    return outcome


def logprobs(model: Any, rows: Sequence[TrainingRow]) -> list[Tensor]:
    """Return the [T] log-probabilities of each row."""
    return [plain_logprobs(model, row) for row in rows]


def learned_logprobs(model: Any, row: TrainingRow) -> Tensor:
    """Return the log-probabilities of the tokens of a row that are learned."""
    found = plain_logprobs(model, row)
    return found if row.token_weights is None else found[torch.from_numpy(row.token_weights > 0)]


def sums(model: Any, rows: Sequence[TrainingRow], role: RowRole | None = None) -> Tensor:
    return torch.stack([learned_logprobs(model, row).sum() for row in rows if role in (None, row.role)])


def means(model: Any, rows: Sequence[TrainingRow], role: RowRole | None = None) -> Tensor:
    return torch.stack([learned_logprobs(model, row).mean() for row in rows if role in (None, row.role)])


def of_several_turns(rows: Sequence[TrainingRow]) -> list[TrainingRow]:
    """Return rows in which the second token is another speaker's, where there are more."""
    masks = [np.arange(len(row.completion_ids)) != 1 for row in rows]
    return [replace(row, token_weights=mask.astype(np.float32)) for row, mask in zip(rows, masks, strict=True)]


def with_advantages(*, seed: int = 1) -> list[TrainingRow]:
    return random_rows(num_groups=3, group_size=4, seed=seed, advantages=True)


def minimal_row(length: int, **fields: Any) -> TrainingRow:
    """Return a row of which only the length and the given fields matter."""
    known = {"behavior": "b", "problem_id": "p", "split": Split.TRAIN, "group_id": "g", "prompt_ids": (1,)}
    return TrainingRow(**{**known, "completion_ids": (2,) * length, **fields})


def scorer_of(values: Mapping[Score, Sequence[Sequence[float]]], asked: Sequence[TrainingRow]) -> Callable:
    """Return a scorer of rows that answers from a table, in the order of `asked`."""

    def score_rows(rows: Sequence[TrainingRow], score: Score) -> list[np.ndarray]:
        return [np.array(values[score][asked.index(row)], dtype=np.float32) for row in rows]

    return score_rows


def random_head(model: Any, *, bias: bool) -> Any:
    head = scalar_head(model, bias=bias)
    generator = torch.Generator().manual_seed(4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return head


def hidden_states(model: Any, ids: Sequence[int]) -> Tensor:
    """Return the [S, H] last hidden states."""
    return model.model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]


def check_head(stepper: Stepper, rows: Sequence[TrainingRow], wanted: Tensor, head: Any, of_head: Sequence[Tensor]) -> None:
    wanted.backward()
    gradient = helper_gradient(stepper.model)
    stepper.optimizer.zero_grad()
    outcome = stepper.accumulate(rows, {})
    assert outcome.loss == pytest.approx(float(wanted.detach()), rel=1e-10)
    for name, value in helper_gradient(stepper.model).items():
        torch.testing.assert_close(value, gradient[name], rtol=1e-8, atol=1e-11)
    for parameter, value in zip(head.parameters(), of_head, strict=True):
        torch.testing.assert_close(parameter.grad, value, rtol=1e-8, atol=1e-11)
