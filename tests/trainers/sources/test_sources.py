from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from helpers.training import (
    ENDS,
    EOS,
    TinyEngine,
    build_stage,
    grade_all,
    grade_parity,
    make_behavior,
    random_pairs,
    random_rows,
    tiny_llama,
)

from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Grade, GradeStatus
from posttrain.trainers.config import EpochConfig, RolloutConfig, TracesConfig
from posttrain.trainers.sources.demonstrations import encode_references
from posttrain.trainers.sources.iterative import IterativeSource
from posttrain.trainers.sources.order import EpochOrder
from posttrain.trainers.sources.policy import PolicySource, RolloutSampler
from posttrain.trainers.sources.prepared import PreparedRows, fixed
from posttrain.trainers.sources.verified import mismatched, sample_verified, select_verified
from posttrain.trainers.training_types import RowRole, TrainingSet


def test_epoch_order_visits_everything_once_per_epoch_and_repeats_by_seed() -> None:
    order = EpochOrder(10, 4, seed=3)
    dealt = [index for step in range(5) for index in order.batch(step)]
    assert sorted(dealt[:10]) == sorted(dealt[10:]) == list(range(10))
    assert dealt[:10] != dealt[10:]
    assert EpochOrder(10, 4, seed=3).batch(2) == order.batch(2)
    twice = EpochOrder(10, 4, seed=3, num_epochs=2)
    assert twice.num_batches() == 5
    assert [twice.batch(step) for step in range(5)] == [order.batch(step) for step in range(5)]


@pytest.mark.parametrize(
    ("num_items", "batch_size", "num_epochs", "sizes"),
    [
        (17, 16, 1.0, [16, 1]),
        (17, 16, 3.0, [16, 16, 16, 3]),
        (5, 16, 2.0, [5, 5]),
        (16, 16, 1.0, [16]),
        (10, 4, 0.5, [4, 1]),
        (10, 4, 0.01, [1]),
        (1, 16, 3.0, [1, 1, 1]),
        (10, 3, 0.1 + 0.2, [3]),
    ],
)
def test_an_epoch_trains_each_row_once(num_items: int, batch_size: int, num_epochs: float, sizes: list[int]) -> None:
    rows = [replace(row, problem_id=f"p{index}") for index, row in enumerate(random_rows(num_groups=num_items, group_size=1))]
    source = PreparedRows(fixed(rows), EpochConfig(rows_per_batch=batch_size, num_epochs=num_epochs))
    num_batches, _ = source.prepare()
    batches = [source.batch(step).rows for step in range(num_batches)]
    assert [len(batch) for batch in batches] == sizes
    counts = Counter(row.problem_id for batch in batches for row in batch)
    assert set(counts.values()) <= {math.floor(num_epochs), math.ceil(num_epochs)}


def test_later_rounds_train_their_own_rows_once_an_epoch_in_as_many_batches_as_the_first(model) -> None:
    num_rows = [6, 17, 2, 0]
    config = EpochConfig(rows_per_batch=2, num_epochs=1)
    every = [replace(row, problem_id=f"p{index}") for index, row in enumerate(random_rows(num_groups=17, group_size=1))]
    source = IterativeSource(TinyEngine(model), lambda number: PreparedRows(fixed(every[: num_rows[number]]), config), 4)
    num_batches, _ = source.prepare()
    assert num_batches == 12
    rounds = [[source.batch(3 * number + place).rows for place in range(3)] for number in range(4)]
    assert [[len(batch) for batch in batches] for batches in rounds] == [[2, 2, 2], [5, 6, 6], [1, 1, 1], [1, 1, 1]]
    assert Counter(row.problem_id for batch in rounds[1] for row in batch) == {f"p{index}": 1 for index in range(17)}


def test_a_last_batch_of_one_labelled_answer_has_a_reference_point() -> None:
    rows = [replace(row, role=RowRole.CHOSEN) for row in random_rows(num_groups=3, group_size=1)]
    source = PreparedRows(fixed(rows), EpochConfig(rows_per_batch=2, num_epochs=1), also=mismatched)
    assert source.prepare()[0] == 2
    assert [row.role for row in source.batch(1).rows] == [RowRole.CHOSEN, RowRole.MISMATCHED, RowRole.MISMATCHED]


def test_a_batch_of_one_prompt_is_compared_with_another_prompt() -> None:
    (first, *_), (other, *_) = (random_rows(num_groups=1, group_size=1, seed=seed) for seed in range(2))
    rows = [replace(first, role=RowRole.CHOSEN, group_id=str(number)) for number in range(4)]
    source = PreparedRows(
        fixed([*rows, replace(other, role=RowRole.REJECTED)]), EpochConfig(rows_per_batch=2, num_epochs=1), also=mismatched
    )
    for step in range(source.prepare()[0]):
        batch = source.batch(step).rows
        assert any(row.role is RowRole.MISMATCHED for row in batch)
        assert sum(row.role is not RowRole.MISMATCHED for row in batch) == (2 if step < 2 else 1)
    alone = PreparedRows(fixed(rows), EpochConfig(rows_per_batch=2, num_epochs=1), also=mismatched)
    alone.prepare()
    assert all(row.role is RowRole.CHOSEN for row in alone.batch(0).rows)


def test_demonstrations_become_rows_with_the_end_token(model) -> None:
    training_set = TrainingSet([make_behavior()], dev_share=0)
    rows = encode_references(TinyEngine(model), training_set.train)
    assert len(rows) == 8
    assert rows[1].completion_ids == (19, EOS)
    training_set.require_train(rows)
    source = PreparedRows(fixed(rows), EpochConfig(rows_per_batch=3, num_epochs=1))
    assert source.prepare()[0] == math.ceil(8 / 3)
    assert PreparedRows(fixed([]), EpochConfig(rows_per_batch=3, num_steps=5)).prepare()[0] == 0


def test_policy_source_draws_groups_afresh_and_keeps_the_samplers_numbers(model) -> None:
    engine = TinyEngine(model)
    items = TrainingSet([make_behavior()], dev_share=0).train
    config = RolloutConfig(problems_per_batch=3, group_size=4, num_steps=2)
    sampler = RolloutSampler(engine=engine, graders={"sums": grade_parity})
    source = PolicySource(sampler=sampler, items=items, config=config)
    first, second = source.batch(0), source.batch(1)
    assert engine.refreshed == 2
    assert len(first.rows) == 12
    assert len({row.group_id for row in first.rows}) == 3
    assert {row.group_id for row in first.rows}.isdisjoint(row.group_id for row in second.rows)
    assert all(row.sampler_logprobs is not None for row in first.rows)
    assert first.metrics["generated_tokens"] == sum(len(row.completion_ids) for row in first.rows)
    again = PolicySource(sampler=sampler, items=items, config=config)
    assert [row.completion_ids for row in again.batch(0).rows] == [row.completion_ids for row in first.rows]


def test_truncated_samples_fail_and_missing_grades_stay_unknown(model) -> None:
    items = TrainingSet([make_behavior(max_tokens=2)], dev_share=0).train
    rows = RolloutSampler(engine=TinyEngine(model), graders={"sums": grade_all(1.0)}).sample_problems(
        items, num_samples=4, seed="s"
    )
    assert {row.reward for row in rows if row.completion_ids[-1] < ENDS} == {0.0}
    assert {row.reward for row in rows if row.completion_ids[-1] >= ENDS} == {1.0}

    def timeout(problem, texts):
        return [Grade(status=GradeStatus.TIMEOUT, score=None) for _ in texts]

    rows = RolloutSampler(engine=TinyEngine(model), graders={"sums": timeout}).sample_problems(items, num_samples=2, seed="s")
    assert {row.reward for row in rows} == {None}
    with pytest.raises(SettingsError) as refused:
        RolloutSampler(engine=TinyEngine(model), graders={}).sample_problems(items, num_samples=2, seed="s")
    assert refused.value.code == "no_verifier"


def test_verified_samples_are_right_distinct_and_few_and_single_successes_stay() -> None:
    base = random_rows(num_groups=1, group_size=1)[0]
    given = [
        ("easy", "1", 1.0),
        ("easy", "1 ", 1.0),
        ("easy", "2", 1.0),
        ("easy", "3", 1.0),
        ("easy", "4", 0.0),
        ("hard", "9", 1.0),
    ]
    rows = [replace(base, problem_id=name, text=text, reward=reward) for name, text, reward in given]
    rows.append(replace(base, problem_id="hard", text="8", reward=None))
    kept = select_verified(rows, {"b": 1.0}, 2)
    assert [(row.problem_id, row.text) for row in kept] == [("easy", "1"), ("easy", "2"), ("hard", "9")]


def test_nothing_verified_means_no_batches(model) -> None:
    training_set = TrainingSet([make_behavior()], dev_share=0)
    config = TracesConfig(num_samples=2, max_per_problem=2, rows_per_batch=4, num_epochs=1)
    make = sample_verified(
        RolloutSampler(engine=TinyEngine(model), graders={"sums": grade_all(0.0)}), training_set, config, seed="s"
    )
    source = PreparedRows(make, config)
    num_batches, metrics = source.prepare()
    assert num_batches == 0
    assert metrics["problems_without_success"] == 1.0


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "cpo", "orpo", "reward_model"])
def test_pairs_are_refused_where_answers_are_labelled_one_by_one(model, name: str) -> None:
    """Good and bad answers of different rows are no pair, even where there are as many of both."""
    labelled = [replace(row, group_id=f"row{index}") for index, row in enumerate(random_pairs())]
    build_stage(name, model, data=random_pairs())
    with pytest.raises(BehaviorError) as caught:
        build_stage(name, model, data=labelled)
    assert caught.value.code == "data_not_read"
    assert str(caught.value).endswith(": kto")
    stage, _ = build_stage("kto", model, data=labelled)
    assert stage.source.prepare()[0] > 0


@pytest.mark.parametrize("name", ["sft", "replay"])
def test_what_is_imitated_was_written_to_be_imitated(model, name: str) -> None:
    """Rejected answers and ungraded samples are no demonstrations, not even beside some."""
    demonstrations = [replace(row, role=RowRole.DEMONSTRATION) for row in random_rows()]
    teacher = tiny_llama(seed=2) if name == "replay" else None
    build_stage(name, model, data=demonstrations, teacher=teacher)
    for rows in (random_pairs(), [*demonstrations, *random_rows()]):
        with pytest.raises(BehaviorError) as caught:
            build_stage(name, model, data=rows, teacher=teacher)
        assert caught.value.code == "data_not_read"


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2), (3, 1, 1, 1), (1, 3, 2), (2, 5, 1, 4, 2)])
def test_mismatched_answers_were_written_for_another_prompt(sizes: tuple[int, ...]) -> None:
    """KTO's reference point is about answers that were not written for the prompt; each answer counts once."""
    rows = [
        replace(random_pairs()[0], prompt_ids=(n,), completion_ids=(n, m), sampler_logprobs=None)
        for n, size in enumerate(sizes)
        for m in range(size)
    ]
    random.Random(0).shuffle(rows)
    found = mismatched(rows)
    assert all(row.role is RowRole.MISMATCHED and row.completion_ids[0] != row.prompt_ids[0] for row in found)
    assert sorted(row.completion_ids for row in found) == sorted(row.completion_ids for row in rows)
    assert sorted(row.prompt_ids for row in found) == sorted(row.prompt_ids for row in rows)


def test_where_most_answers_share_a_prompt_some_have_no_other() -> None:
    rows = [
        replace(random_pairs()[0], prompt_ids=(n,), completion_ids=(n, m), sampler_logprobs=None)
        for n, m in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]
    found = mismatched(rows)
    assert sorted((row.prompt_ids, row.completion_ids) for row in found)[0] == ((0,), (1, 0))
    assert all(row.completion_ids[0] != row.prompt_ids[0] for row in found)
    assert mismatched(rows[:3]) == mismatched(rows[:1]) == mismatched([]) == []
