"""Credit against formulas written out here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.closed_forms import minimal_row, scorer_of

from posttrain.diagnose.types import Grade, GradeStatus, StopReason
from posttrain.trainers.credit.group import GroupCredit
from posttrain.trainers.credit.reference_point import ReferencePoint
from posttrain.trainers.credit.steps import StepCredit
from posttrain.trainers.credit.teacher import TeacherCredit
from posttrain.trainers.credit.value import ValueCredit
from posttrain.trainers.sources.interleaved import best_against_worst
from posttrain.trainers.sources.policy import has_signal
from posttrain.trainers.sources.policy import reward as reward_of
from posttrain.trainers.stage import Score
from posttrain.trainers.training_types import RowRole, TrainingRow


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.9, 0.0)])
def test_value_credit_is_the_double_sum(gamma: float, lam: float) -> None:
    rng = np.random.default_rng(0)
    lengths, rewards = [4, 1, 6], [1.0, 0.0, 0.25]
    rows = [minimal_row(length, reward=reward, group_id=str(length)) for length, reward in zip(lengths, rewards, strict=True)]
    ungraded = minimal_row(2)
    values = [rng.normal(size=length).astype(np.float32) for length in lengths]
    filled, _ = ValueCredit(gamma=gamma, lam=lam).assign([*rows, ungraded], scorer_of({Score.VALUE: values}, rows))
    wanted = []
    for value, reward, length in zip(values, rewards, lengths, strict=True):
        after = [*value[1:], 0.0]
        delta = [(reward if t == length - 1 else 0.0) + gamma * after[t] - value[t] for t in range(length)]
        wanted.append([sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length)) for t in range(length)])
    every = np.concatenate(wanted)
    for row, value, advantages in zip(filled, values, wanted, strict=False):
        np.testing.assert_allclose(row.advantages, (np.array(advantages) - every.mean()) / every.std(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(row.returns, np.array(advantages) + value, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(row.old_values, value)
    assert not filled[-1].advantages.any()
    assert filled[-1].returns is None
    if lam == gamma == 1.0:  # then a return is the reward
        np.testing.assert_allclose(filled[2].returns, [0.25] * 6, atol=1e-5)


def test_equal_rewards_give_values_something_to_learn_and_the_policy_nothing() -> None:
    rows = [minimal_row(3, reward=1.0), minimal_row(2, reward=1.0)]
    filled, _ = ValueCredit().assign(rows, scorer_of({Score.VALUE: [[0.1, 0.5, 0.2], [0.3, 0.4]]}, rows))
    assert not any(row.advantages.any() for row in filled)
    assert all(row.returns is not None for row in filled)


def test_reference_point_is_the_mean_gain_of_mismatched_answers_or_zero() -> None:
    mismatched = [minimal_row(2, role=RowRole.MISMATCHED), minimal_row(3, role=RowRole.MISMATCHED)]
    labelled = [minimal_row(1, role=RowRole.CHOSEN), minimal_row(1, role=RowRole.REJECTED)]
    policy, start = [[-1.0, -2.0], [-0.5, -0.5, -0.5]], [[-1.5, -2.5], [-1.0, -1.0, -1.0]]
    score_rows = scorer_of({Score.POLICY: policy, Score.REFERENCE: start}, mismatched)
    rows, metrics = ReferencePoint().assign([*labelled, *mismatched], score_rows)
    assert [row.role for row in rows] == [RowRole.CHOSEN, RowRole.REJECTED]
    assert [row.baseline for row in rows] == [1.25, 1.25]
    assert metrics["reference_kl"] == 1.25
    rows, _ = ReferencePoint().assign(
        [*labelled, *mismatched], scorer_of({Score.POLICY: start, Score.REFERENCE: policy}, mismatched)
    )
    assert [row.baseline for row in rows] == [0.0, 0.0]
    rows, _ = ReferencePoint().assign(labelled, score_rows)
    assert [row.baseline for row in rows] == [0.0, 0.0]
    one, other = mismatched  # a token of another speaker is not learned
    masked = [one, replace(other, token_weights=np.array([1, 0, 1], dtype=np.float32))]
    rows, _ = ReferencePoint().assign([*labelled, *masked], scorer_of({Score.POLICY: policy, Score.REFERENCE: start}, masked))
    assert [row.baseline for row in rows] == [1.0, 1.0]


def test_step_credit_is_the_worst_step_from_here_on() -> None:
    rows = [
        minimal_row(6, reward=1.0, step_ends=(1, 3, 4), step_scores=(0.5, 0.25, 1.0)),
        minimal_row(2, reward=0.0, step_ends=(1,), step_scores=(0.75,)),
        minimal_row(3, reward=0.5, step_ends=(0, 2), step_scores=(1.0, 0.0)),
        minimal_row(2, reward=1.0),  # no steps were found
        minimal_row(2, step_ends=(1,), step_scores=(1.0,)),  # no grade
    ]
    filled, _ = StepCredit(outcome_weight=0.2).assign(rows, scorer_of({}, rows))
    worst = [0.25, 0.75, 0.0]
    others = [(worst[1] + worst[2]) / 2, (worst[0] + worst[2]) / 2, (worst[0] + worst[1]) / 2]
    outcome = [0.2 * (1.0 - 0.25), 0.2 * (0.0 - 0.75), 0.2 * (0.5 - 0.5)]
    futures = [[0.25, 0.25, 0.25, 0.25, 1.0, 1.0], [0.75, 0.75], [0.0, 0.0, 0.0]]  # what follows the last step goes with it
    for row, future, other, extra in zip(filled, futures, others, outcome, strict=False):
        np.testing.assert_allclose(row.advantages, np.array(future) - other + extra, rtol=1e-6)
    assert not filled[3].advantages.any()
    assert not filled[4].advantages.any()


def test_step_credit_without_differences_is_no_signal() -> None:
    rows = [
        minimal_row(2, reward=1.0, step_ends=(0, 1), step_scores=(0.5, 0.5)),
        minimal_row(1, reward=1.0, step_ends=(0,), step_scores=(0.5,)),
    ]
    filled, metrics = StepCredit().assign(rows, scorer_of({}, rows))
    assert not any(row.advantages.any() for row in filled)
    assert metrics["groups_without_signal"] == 1.0


def test_teacher_credit_is_the_mean_log_ratio_of_what_follows() -> None:
    rows = [minimal_row(4), minimal_row(1)]
    teacher, policy = [[-1.0, -1.0, -2.0, -1.0], [-1.0]], [[-1.0, -2.0, -1.0, -3.0], [-0.5]]
    filled, metrics = TeacherCredit().assign(rows, scorer_of({Score.TEACHER: teacher, Score.POLICY: policy}, rows))
    np.testing.assert_allclose(filled[0].advantages, [(1 - 1 + 2) / 3, (-1 + 2) / 2, 2.0, 0.0], rtol=1e-6)
    assert filled[1].advantages.tolist() == [0.0]
    assert metrics["teacher_log_ratio"] == pytest.approx((0 + 1 - 1 + 2 - 0.5) / 5)


def steps_row(reward: float, scores: tuple[float, ...], group_id: str = "g") -> TrainingRow:
    return replace(
        minimal_row(len(scores), reward=reward, group_id=group_id), step_ends=tuple(range(len(scores))), step_scores=scores
    )


@pytest.mark.parametrize("credit", [GroupCredit(), GroupCredit(normalize_std=False), GroupCredit(leave_one_out=True)])
def test_rewards_that_differ_by_rounding_are_no_signal(credit: GroupCredit) -> None:
    rows = [minimal_row(2, reward=0.1 + 0.2), minimal_row(3, reward=0.3), minimal_row(1, reward=float(np.float32(0.3)))]
    filled, metrics = credit.assign(rows, scorer_of({}, rows))
    assert not any(row.advantages.any() for row in filled)
    assert metrics["groups_without_signal"] == 1.0


def test_rounding_is_no_signal_for_steps_values_and_resampling() -> None:
    rows = [steps_row(0.3, (0.3, 0.3)), steps_row(0.1 + 0.2, (0.1 + 0.2, 0.3))]
    filled, metrics = StepCredit().assign(rows, scorer_of({}, rows))
    assert not any(row.advantages.any() for row in filled)
    assert metrics["groups_without_signal"] == 1.0
    values = scorer_of({Score.VALUE: [[0.1, 0.5], [0.3, 0.4]]}, rows)
    filled, metrics = ValueCredit().assign(rows, values)
    assert not any(row.advantages.any() for row in filled)
    assert metrics["groups_without_signal"] == 1.0
    assert not has_signal(rows)
    assert best_against_worst((), rows, 0) == []


def test_a_small_difference_of_rewards_is_a_signal() -> None:
    rows = [minimal_row(2, reward=0.3), minimal_row(3, reward=0.301)]
    filled, metrics = GroupCredit(normalize_std=False).assign(rows, scorer_of({}, rows))
    np.testing.assert_allclose([row.advantages[0] for row in filled], [-0.0005, 0.0005], rtol=1e-5)
    assert metrics["groups_without_signal"] == 0.0
    assert has_signal(rows)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_missing(broken: float) -> None:
    known = [minimal_row(2, reward=0.0), minimal_row(1, reward=1.0)]
    rows = [*known, minimal_row(2, reward=broken)]
    wanted = [row.advantages[0] for row in GroupCredit().assign(known, scorer_of({}, known))[0]]
    filled, metrics = GroupCredit().assign(rows, scorer_of({}, rows))
    np.testing.assert_array_equal([row.advantages[0] for row in filled], [*wanted, 0.0])
    assert metrics["ungraded"] == pytest.approx(1 / 3)
    assert metrics["reward"] == 0.5
    filled, _ = ValueCredit().assign(rows, scorer_of({Score.VALUE: [[0.1, 0.5], [0.3]]}, known))
    assert all(np.isfinite(row.advantages).all() for row in filled)
    assert not filled[-1].advantages.any()
    steps = [steps_row(0.0, (0.2, 0.4)), steps_row(1.0, (0.9, 0.8)), steps_row(1.0, (broken, 0.5))]
    filled, _ = StepCredit().assign(steps, scorer_of({}, steps))
    assert all(np.isfinite(row.advantages).all() for row in filled)
    assert filled[0].advantages.any()
    assert not filled[-1].advantages.any()
    assert reward_of(StopReason.EOS, Grade(status=GradeStatus.SCORED, score=broken)) is None
