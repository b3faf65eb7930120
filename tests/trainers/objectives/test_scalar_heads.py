"""Losses of scalar heads against formulas written out here, in float64: values, rewards of answers, rewards of steps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.closed_forms import check_head, hidden_states, minimal_row, random_head, stepper_of, with_advantages
from helpers.training import random_pairs, random_rows

from posttrain.trainers.objectives.policy_gradient import ValueLoss
from posttrain.trainers.objectives.reductions import row_mean, step_mean, token_mean
from posttrain.trainers.objectives.reward_modelling import BradleyTerry, StepCorrectness
from posttrain.trainers.stage import Component
from posttrain.trainers.training_types import RowRole


def test_value_loss_by_hand(model64) -> None:
    """The larger of the two squares; beyond the clip, on the far side, there is no gradient."""
    rows = [minimal_row(2, returns=np.array([1.0, 0.0]), old_values=np.array([0.5, 0.5])), minimal_row(2, returns=np.array([1.0, 1.0]), old_values=np.zeros(2))]  # fmt: skip
    value = torch.tensor([0.9, 0.4, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    said = ValueLoss(clip=0.2).loss(SimpleNamespace(rows=rows, value=value))
    # V, V_old ± clip, R: (.9, .7, 1) the held one is worse; (.4, .4, 0); (.1, .1, 1); (3, .2, 1) the free one is.
    np.testing.assert_allclose(said.losses.detach(), [0.5 * 0.3**2, 0.5 * 0.4**2, 0.5 * 0.9**2, 0.5 * 2.0**2])
    said.losses.sum().backward()
    np.testing.assert_allclose(value.grad, [0.0, 0.4, -0.9, 2.0], atol=1e-12)


def test_rows_without_returns_teach_no_value(model64) -> None:
    """A row whose grade is missing has none, and runs all the same where a divergence applies to it."""
    rows = [minimal_row(2), minimal_row(1, returns=np.array([1.0]), old_values=np.array([0.5]))]
    value = torch.tensor([0.9, 0.4, 0.5], dtype=torch.float64, requires_grad=True)
    said = ValueLoss(clip=0.2).loss(SimpleNamespace(rows=rows, value=value))
    np.testing.assert_allclose(said.losses.detach(), [0.0, 0.0, 0.5 * 0.5**2])
    said.losses.sum().backward()
    np.testing.assert_allclose(value.grad, [0.0, 0.0, -0.5], atol=1e-12)


def test_values_are_read_before_each_token(model64) -> None:
    """V_t is what the head says where token t is predicted, so it knows the prompt and the tokens before t."""
    rng = np.random.default_rng(1)
    rows = []
    for row in with_advantages():
        size = len(row.completion_ids)
        rows.append(replace(row, returns=rng.normal(size=size).astype(np.float32), old_values=rng.normal(size=size).astype(np.float32)))  # fmt: skip
    head = random_head(model64, bias=True)
    losses, tokens = [], 0
    for row in rows:
        value = head(hidden_states(model64, row.prompt_ids + row.completion_ids))[len(row.prompt_ids) - 1 : -1, 0]
        held = torch.from_numpy(row.old_values.astype(np.float64))
        held = held + (value - held).clamp(-0.5, 0.5)
        returns = torch.from_numpy(row.returns.astype(np.float64))
        losses.append(0.5 * torch.maximum((value - returns) ** 2, (held - returns) ** 2).sum())
        tokens += len(value)
    stepper = stepper_of(model64, Component(term=ValueLoss(clip=0.5), reduction=token_mean, weight=0.3), head=head)
    wanted = 0.3 * torch.stack(losses).sum() / tokens
    of_head = torch.autograd.grad(wanted, [head.weight, head.bias], retain_graph=True)
    head.zero_grad()
    check_head(stepper, rows, wanted, head, of_head)


@pytest.mark.parametrize("centering", [0.0, 0.1])
def test_bradley_terry_by_hand(model64, centering: float) -> None:
    """The reward stands behind the whole answer; the row's last token is there so that the one before it is read."""
    from posttrain.trainers.recipes.blocks import repeat_last_token

    pairs = random_pairs()
    head = random_head(model64, bias=False)
    rewards = {role: torch.stack([head(hidden_states(model64, row.prompt_ids + row.completion_ids))[-1, 0] for row in pairs if row.role is role])
               for role in (RowRole.CHOSEN, RowRole.REJECTED)}  # fmt: skip
    chosen, rejected = rewards[RowRole.CHOSEN], rewards[RowRole.REJECTED]
    wanted = (-torch.log(torch.sigmoid(chosen - rejected)) + centering * (chosen + rejected) ** 2).mean()
    of_head = torch.autograd.grad(wanted, [head.weight], retain_graph=True)
    stepper = stepper_of(model64, Component(term=BradleyTerry(centering=centering), reduction=row_mean), head=head)
    check_head(stepper, [repeat_last_token(row) for row in pairs], wanted, head, of_head)


def test_step_correctness_by_hand(model64) -> None:
    """Cross-entropy behind the last token of each step, all steps of the batch alike; rows without steps say nothing."""
    from posttrain.trainers.recipes.blocks import repeat_last_token

    plain = [row for row in random_rows(num_groups=4, longest=8, seed=2) if len(row.completion_ids) >= 3]
    rows = [
        replace(row, step_ends=(0, len(row.completion_ids) - 1), step_scores=(1.0, float(index % 2)))
        for index, row in enumerate(plain)
    ]
    rows[1] = replace(rows[1], step_ends=(), step_scores=())
    rows[2] = replace(rows[2], step_ends=(1,), step_scores=(0.0,))
    head = random_head(model64, bias=True)
    losses = []
    for row in rows:
        said = head(hidden_states(model64, row.prompt_ids + row.completion_ids))[len(row.prompt_ids) :, 0]
        for end, label in zip(row.step_ends, row.step_scores, strict=True):
            right = torch.sigmoid(said[end])
            losses.append(-torch.log(right if label == 1.0 else 1 - right))
    wanted = torch.stack(losses).mean()
    of_head = torch.autograd.grad(wanted, [head.weight, head.bias], retain_graph=True)
    stepper = stepper_of(model64, Component(term=StepCorrectness(), reduction=step_mean), head=head)
    check_head(stepper, [repeat_last_token(row) for row in rows], wanted, head, of_head)
