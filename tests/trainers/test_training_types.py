from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.training import make_behavior, make_problem

from posttrain.diagnose.errors import UserError
from posttrain.diagnose.types import Split
from posttrain.trainers.training_types import MeasuredProblemError, TrainingRow, TrainingSet


def test_only_train_problems_come_in_and_dev_is_cut_from_them() -> None:
    training_set = TrainingSet([make_behavior(num_train=40, num_eval=20)], dev_share=0.1)
    both = training_set.train + training_set.dev
    assert len(both) == 40
    assert len(training_set.dev) == 4
    assert all(item.problem.split is Split.TRAIN for item in both)
    again = TrainingSet([make_behavior(num_train=40, num_eval=20)], dev_share=0.1)
    assert [item.name for item in training_set.dev] == [item.name for item in again.dev]


def test_dev_slice_is_never_more_than_a_quarter_and_may_be_off() -> None:
    assert len(TrainingSet([make_behavior(num_train=8)]).dev) == 2
    assert len(TrainingSet([make_behavior(num_train=3)]).dev) == 0
    assert len(TrainingSet([make_behavior()], dev_share=0).dev) == 0


def test_a_train_problem_that_equals_a_measured_one_is_refused() -> None:
    behavior = make_behavior()
    twin = replace(make_problem(99), key=behavior.split(Split.EVAL)[0].key)
    with pytest.raises(MeasuredProblemError) as caught:
        TrainingSet([replace(behavior, problems=(*behavior.problems, twin))])
    assert caught.value.code == "measured_problem"
    assert "sums/p99" in str(caught.value)


def test_rows_of_other_splits_are_refused() -> None:
    behavior = make_behavior()
    training_set = TrainingSet([behavior], dev_share=0)

    def row(problem_id: str, split: Split) -> TrainingRow:
        return TrainingRow(behavior="sums", problem_id=problem_id, split=split, group_id="", prompt_ids=(1,), completion_ids=(2,))

    training_set.require_train([row("p0", Split.TRAIN)])
    for wrong in (row("p0", Split.EVAL), row("p9", Split.TRAIN), row("unknown", Split.TRAIN)):
        with pytest.raises(MeasuredProblemError):
            training_set.require_train([wrong])


def test_dev_rows_are_refused_as_training_rows() -> None:
    training_set = TrainingSet([make_behavior(num_train=40)])
    problem = training_set.dev[0].problem
    row = TrainingRow(
        behavior="sums", problem_id=problem.id, split=problem.split, group_id="", prompt_ids=(1,), completion_ids=(2,)
    )
    with pytest.raises(MeasuredProblemError):
        training_set.require_train([row])


def test_rows_that_cannot_be_scored_are_refused() -> None:
    base = {"behavior": "b", "problem_id": "p", "split": Split.TRAIN, "group_id": "g"}
    with pytest.raises(UserError) as caught:
        TrainingRow(**base, prompt_ids=(), completion_ids=(1,))
    assert caught.value.code == "row_is_empty"
    with pytest.raises(UserError) as caught:
        TrainingRow(**base, prompt_ids=(1,), completion_ids=(1, 2), advantages=np.zeros(3, dtype=np.float32))
    assert caught.value.code == "row_lengths_differ"
    assert "advantages" in str(caught.value)
