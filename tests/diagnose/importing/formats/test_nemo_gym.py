"""Rollouts of NeMo Gym, read from the examples that its environments keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.rollout_files import ROLLOUTS, by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.types import StopReason

GYM = ROLLOUTS / "nemo_gym"
TURNS = {
    "mcqa": [1, 1, 1, 1, 1],
    "math_with_judge": [1, 1, 1, 1, 1],
    "blackjack": [2, 1, 1, 2, 1],
    "calendar": [1, 1, 1],
    "workplace": [2, 2, 3],
    "aviary": [2, 2, 4],
    "tau2": [5, 6],
    "ruler": [1, 1],
}


@pytest.mark.parametrize("environment", TURNS)
def test_turns_are_counted_as_the_model_took_them(environment: str):
    read = read_rollouts("nemo-gym", GYM / f"{environment}_rollouts.jsonl")
    assert [sample.num_turns for sample in read.samples] == TURNS[environment]
    assert all(sample.text is not None and sample.prompt for sample in read.samples)


def test_rewards_answers_and_model_are_those_of_the_rows():
    read = read_rollouts("nemo-gym", GYM / "mcqa_rollouts.jsonl")
    assert [sample.score for sample in read.samples] == [0.0, 1.0, 0.0, 1.0, 1.0]
    assert read.samples[0].answer == "I"
    assert (read.samples[0].num_tokens, read.samples[0].stop) == (475, StopReason.EOS)
    assert read.source.model == "gpt-4.1-2025-04-14"
    assert read.source.sampling is not None
    assert read.source.sampling.temperature == 1.0
    assert Untold.PROBLEM_IDS in read.source.untold  # an older file, without task indices
    assert by_problem(read_rollouts("nemo-gym", GYM / "math_with_judge_rollouts.jsonl", score="library_reward"))


def test_samples_of_a_task_are_one_problem_although_its_first_cards_differ():
    read = read_rollouts("nemo-gym", GYM / "blackjack_rollouts.jsonl")
    assert by_problem(read) == {"0": [-1.0, 1.0, -1.0, 1.0, 1.0]}
    assert {sample.behavior for sample in read.samples} == {"blackjack_gymnasium_agent"}


def test_history_that_was_given_is_no_turn_of_the_model():
    sample = read_rollouts("nemo-gym", GYM / "calendar_rollouts.jsonl").samples[0]
    assert isinstance(sample.prompt, tuple)
    assert "assistant" in [message.role for message in sample.prompt]
    assert sample.turns == ()


def test_an_output_that_ran_into_its_limit_is_truncated():
    read = read_rollouts("nemo-gym", GYM / "ruler_rollouts.jsonl")
    assert {sample.stop for sample in read.samples} == {StopReason.LENGTH}


def gym_row(task: int | None, question: str, reward: float | None, **others: Any) -> dict[str, Any]:
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
    row = {"responses_create_params": {"input": question}, "response": {"model": "m", "output": [said]}, "reward": reward}
    return {**row, **({} if task is None else {"_ng_task_index": task}), **others}


def test_hard_rows(tmp_path: Path):
    rows = [
        gym_row(0, "p", 1.0),
        gym_row(0, "p", float("nan")),
        gym_row(1, "p", 0.0),  # two problems with one text
        gym_row(None, "p", 1.0),
        gym_row(2, "q", None, response={"output": [], "error": {"code": "server_error"}}),
        gym_row(2, "q", 0.0, response={"output": [], "model": "m"}),  # said nothing
    ]
    read = read_rollouts("nemo-gym", write_rows(tmp_path / "rollouts.jsonl", rows))
    assert list(by_problem(read).values()) == [[1.0, None], [0.0], [1.0], [None, 0.0]]
    assert [sample.text for sample in read.samples][-2:] == [None, ""]
    assert {sample.policy for sample in read.samples} == {""}


def test_one_index_of_two_files_is_refused_where_the_prompts_differ(tmp_path: Path):
    files = [write_rows(tmp_path / name / "rollouts.jsonl", [gym_row(0, name, 1.0)]) for name in ("a", "b")]
    with pytest.raises(SourceError) as refused:
        read_rollouts("nemo-gym", *files)
    assert refused.value.code == "problem_clash"
    same = [write_rows(tmp_path / name / "rollouts.jsonl", [gym_row(0, "p", 1.0)]) for name in ("a", "b")]
    assert by_problem(read_rollouts("nemo-gym", *same)) == {"0": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("row", "options", "code"),
    [
        ({"responses_create_params": {"input": "p"}}, {}, "not_this_format"),  # inputs alone
        ({"prompt": "p"}, {}, "not_this_format"),
        (gym_row(0, "p", 1.0), {"score": "accuracy"}, "unknown_score"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, row: dict[str, Any], options: dict[str, Any], code: str):
    with pytest.raises(SourceError) as refused:
        read_rollouts("nemo-gym", write_rows(tmp_path / "rollouts.jsonl", [row]), **options)
    assert refused.value.code == code


def test_calls_of_tools_keep_their_names():
    sample = read_rollouts("nemo-gym", GYM / "workplace_rollouts.jsonl").samples[0]
    calls = json.loads(sample.turns[0].extra)["tool_calls"]
    assert calls[0]["function"]["name"]
    assert sample.turns[1].role == "tool"


def test_rollouts_that_failed_stand_beside_the_others_and_have_no_grade(tmp_path: Path):
    file = write_rows(
        tmp_path / "rollouts.jsonl", [gym_row(0, "p", 1.0, _ng_rollout_index=0), gym_row(1, "q", 0.0, _ng_rollout_index=0)]
    )
    failed: dict[str, Any] = {"_ng_failure_class": "timeout_exceeded", "reward": 0.0}
    attempts = [
        gym_row(0, "p", 0.0, _ng_rollout_index=0) | failed,  # succeeded at its second attempt
        gym_row(0, "p", 0.0, _ng_rollout_index=1) | failed,
        gym_row(0, "p", 0.0, _ng_rollout_index=1) | failed | {"_ng_failure_class": "skipped"},
        {"_ng_task_index": 2, "_ng_rollout_index": 0, **failed},
    ]
    write_rows(tmp_path / "rollouts_failures.jsonl", attempts)
    read = read_rollouts("nemo-gym", file)
    assert by_problem(read) == {"0": [1.0, None], "1": [0.0], "2": [None]}
    assert [sample.stop for sample in read.samples[2:]] == [StopReason.ERROR] * 2
    assert [note.code for note in read.source.notes] == ["failed_samples"]
    assert by_problem(read_rollouts("nemo-gym", tmp_path)) == by_problem(read)
