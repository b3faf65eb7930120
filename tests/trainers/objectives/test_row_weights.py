"""A row of weight 2 counts as two rows would, in every reduction and in the loss of every stage that reads a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.closed_forms import of_several_turns
from helpers.training import build_stage, gradient, random_pairs, random_rows, tiny_llama

from posttrain.trainers.objectives.reductions import (
    constant_length,
    row_mean,
    sequence_mean,
    sequence_sum,
    step_mean,
    token_mean,
)
from posttrain.trainers.stage import Reduction
from posttrain.trainers.training_types import RowRole, TrainingRow

LENGTHS = (3, 1, 4)


def make_rows() -> list[TrainingRow]:
    rows = random_rows(num_groups=3, group_size=1, longest=4)
    masked = np.array([0, 1, 0.5, 1], dtype=np.float32)
    return [
        replace(
            row,
            completion_ids=(5,) * length,
            sampler_logprobs=None,
            token_weights=masked if length == 4 else None,
            step_ends=tuple(range(length)),
            step_scores=(1.0,) * length,
        )
        for row, length in zip(rows, LENGTHS, strict=True)
    ]


@pytest.mark.parametrize(
    "reduction",
    [token_mean, sequence_mean, sequence_sum, constant_length(7), row_mean, step_mean],
    ids=lambda reduction: reduction.__qualname__,
)
def test_in_every_reduction(reduction: Reduction) -> None:
    first, second, third = make_rows()
    one, another, a, b, c = reduction([first, first, second, third, third])
    weighted = reduction([replace(first, weight=2.0), second, replace(third, weight=2.0)])
    for got, wanted in zip(weighted, (one + another, a, b + c), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    halves = reduction([replace(row, weight=0.5) for row in (first, second, third)])
    for got, wanted in zip(halves, reduction([first, second, third]), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def demonstrations() -> list[TrainingRow]:
    return [replace(row, role=RowRole.DEMONSTRATION, sampler_logprobs=None, reward=None) for row in make_rows()]


def labelled() -> list[TrainingRow]:
    """Return answers that stand alone; at the start the reference point is 0, whatever rows there are."""
    return [replace(row, group_id=f"g{number}") for number, row in enumerate(random_pairs(2, seed=3))]


STAGES = {
    ("sft", "dft"): demonstrations,
    ("logit_kd",): demonstrations,
    ("dpo", "ipo", "orpo", "simpo", "cpo", "reward_model"): lambda: random_pairs(2, seed=3),
    ("kto",): labelled,
    ("process_reward_model",): make_rows,
}


def doubled(rows: Sequence[TrainingRow], group: str) -> list[TrainingRow]:
    """Return rows in which those of a group stand twice."""
    again = [replace(row, group_id=f"{group} again") for row in rows if row.group_id == group]
    return [*rows, *again]


@pytest.mark.parametrize("name", [name for names in STAGES for name in names])
def test_in_every_loss(name: str) -> None:
    rows = next(make for names, make in STAGES.items() if name in names)()
    group = rows[0].group_id
    found = []
    for data in (doubled(rows, group), [replace(row, weight=2.0 if row.group_id == group else 1.0) for row in rows], rows):
        model = tiny_llama()
        settings = {"teacher": tiny_llama(seed=7)} if name == "logit_kd" else {}
        stage, stepper = build_stage(name, model, data=data, rows_per_batch=16, **settings)
        torch.manual_seed(2)
        if stage.scalar_head is not None:
            torch.nn.init.normal_(stage.scalar_head.weight)
        stage.source.prepare()
        batch, _ = stage.credit.assign(stage.source.batch(0).rows, stepper.scorer.score_rows)
        outcome = stepper.accumulate(batch, {})
        found.append((outcome.loss, gradient(model)))
    (twice, wanted), (weighted, got), (_, other) = found
    assert weighted == pytest.approx(twice, rel=1e-5)
    for key, value in wanted.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(other[key], value, rtol=1e-2, atol=1e-6) for key, value in wanted.items())


@pytest.mark.parametrize("name", ["dpo", "kto", "orpo", "reward_model"])
def test_answers_of_several_turns_are_trained_on(name: str) -> None:
    """Turns of others in them are shown and not learned, also in the rows that a stage makes of them."""
    stage, stepper = build_stage(name, tiny_llama(), data=of_several_turns(random_pairs(3, seed=3)), rows_per_batch=16)
    stage.source.prepare()
    batch, _ = stage.credit.assign(stage.source.batch(0).rows, stepper.scorer.score_rows)
    assert all(row.token_weights is not None and 0 in row.token_weights for row in batch if len(row.completion_ids) > 2)
    assert np.isfinite(stepper.accumulate(batch, {}).loss)
