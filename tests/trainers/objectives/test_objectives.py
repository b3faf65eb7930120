"""Terms, reductions and credit against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from posttrain.diagnose.types import Split
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.objectives.divergences import KlToReference
from posttrain.trainers.objectives.policy_gradient import PolicyGradient
from posttrain.trainers.objectives.reductions import sequence_mean, token_mean
from posttrain.trainers.stage import ForwardScores
from posttrain.trainers.training_types import TrainingRow


def row(length: int, *, group: str = "g", reward: float | None = None, weights: list[float] | None = None) -> TrainingRow:
    return TrainingRow(
        behavior="b", problem_id="p", split=Split.TRAIN, group_id=group, prompt_ids=(1,), completion_ids=(2,) * length,
        reward=reward, token_weights=None if weights is None else np.array(weights, dtype=np.float32),
    )  # fmt: skip


def no_look(rows, score):
    raise AssertionError("this credit looks at no model")


def test_reductions_are_named_by_what_they_average() -> None:
    rows = [row(1), row(3)]
    assert [list(share) for share in token_mean(rows)] == [[0.25], [0.25] * 3]
    assert [list(share) for share in sequence_mean(rows)] == [[0.5], [pytest.approx(1 / 6)] * 3]
    masked = [row(1), row(3, weights=[0, 1, 1])]
    assert [list(share) for share in token_mean(masked)] == [
        [pytest.approx(1 / 3)],
        [0, pytest.approx(1 / 3), pytest.approx(1 / 3)],
    ]
    assert list(sequence_mean(masked)[1]) == [0, 0.25, 0.25]


def test_group_credit_by_hand() -> None:
    rows = [
        row(2, group=name, reward=reward)
        for name, reward in [("a", 1.0), ("a", 0.0), ("b", 0.3), ("a", 0.0), ("b", 0.3), ("a", 1.0)]
    ]
    filled, metrics = GroupCredit(eps=0.0).assign(rows, no_look)
    scale = 1 / np.std([1, 0, 0, 1], ddof=1)
    assert [one.advantages[0] for one in filled] == pytest.approx([0.5 * scale, -0.5 * scale, 0, -0.5 * scale, 0, 0.5 * scale])
    assert filled[2].advantages.tolist() == [0.0, 0.0]
    assert (metrics["groups"], metrics["groups_without_signal"]) == (2, 0.5)
    centred, _ = GroupCredit(normalize_std=False).assign(rows, no_look)
    assert [one.advantages[1] for one in centred] == [0.5, -0.5, 0, -0.5, 0, 0.5]


def test_ungraded_rows_take_no_part() -> None:
    filled, metrics = GroupCredit(normalize_std=False).assign(
        [row(1, reward=1.0), row(1, reward=None), row(1, reward=0.0)], no_look
    )
    assert [float(one.advantages[0]) for one in filled] == [0.5, 0.0, -0.5]
    assert metrics["ungraded"] == pytest.approx(1 / 3)
    assert metrics["reward"] == 0.5


def scores(policy: list[float], old: list[float], advantages: list[float], **more: torch.Tensor) -> ForwardScores:
    return ForwardScores(
        rows=(row(len(policy)),), policy=torch.tensor(policy, dtype=torch.float64, requires_grad=True), old=torch.tensor(old, dtype=torch.float64),
        advantages=torch.tensor(advantages, dtype=torch.float64), sequence=torch.zeros(len(policy), dtype=torch.long), **more,
    )  # fmt: skip


def test_clipping_stops_the_gradient_outwards_only() -> None:
    ratios = np.array([1.5, 1.5, 0.5, 0.5, 1.0])
    given = scores(list(np.log(ratios)), [0.0] * 5, [1.0, -1.0, 1.0, -1.0, 1.0])
    said = PolicyGradient(eps_low=0.2, eps_high=0.28).loss(given)
    np.testing.assert_allclose(said.losses.detach(), [-1.28, 1.5, -0.5, 0.8, -1.0])
    said.losses.sum().backward()
    np.testing.assert_allclose(given.policy.grad, [0, 1.5, -0.5, 0, -1.0])
    assert said.metrics["clipped"].tolist() == [1, 0, 0, 1, 0]


def test_importance_weight_is_capped_and_has_no_gradient() -> None:
    given = scores([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], sampler=torch.tensor([-2.0, 0.5], dtype=torch.float64))
    said = PolicyGradient(importance_cap=2.0).loss(given)
    said.losses.sum().backward()
    np.testing.assert_allclose(given.policy.grad, [-2.0, -np.exp(-0.5)])


def test_kl_is_k3_and_never_negative() -> None:
    given = scores([-1.0, -2.0], [0.0, 0.0], [0.0, 0.0], reference=torch.tensor([-1.0, -1.0], dtype=torch.float64))
    np.testing.assert_allclose(KlToReference().loss(given).losses.detach(), [0.0, np.e - 2])


def test_policy_gradient_acts_only_where_there_is_an_advantage() -> None:
    without_signal = replace(row(2), advantages=np.zeros(2, dtype=np.float32))
    assert not PolicyGradient().applies_to(without_signal)
    assert not PolicyGradient().applies_to(row(2))
    assert PolicyGradient().applies_to(replace(without_signal, advantages=np.array([0, 1], dtype=np.float32)))
