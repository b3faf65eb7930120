"""Evaluations of verifiers, read from files that its own classes and writer made, and from rows that are hard on purpose."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.rollout_files import ROLLOUTS, by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.types import StopReason

TRACES, RESULTS = ROLLOUTS / "verifiers_traces", ROLLOUTS / "verifiers_results"


def test_episodes_have_the_rewards_turns_and_ends_that_their_writer_gave_them():
    read = read_rollouts("verifiers", TRACES)
    assert by_problem(read) == {"arith-0": [1.0, 1.0, 0.0], "arith-1": [1.0, 0.0, 0.0], "arith-2": [None, None, 1.0]}
    assert [sample.num_turns for sample in read.samples] == [2, 3, 1, 1, 1, 2, 1, 1, 1]
    assert [sample.num_tokens for sample in read.samples] == [14, 21, 7, 7, 7, 14, None, None, 7]
    L, E, X = StopReason.LENGTH, StopReason.EOS, StopReason.ERROR
    assert [sample.stop for sample in read.samples] == [E, E, L, E, E, L, X, X, E]  # the sixth ran into max_turns
    assert (read.source.model, read.source.version) == ("tiny-policy", "0.4.0")
    assert read.source.sampling is not None
    assert (read.source.sampling.temperature, read.source.sampling.max_tokens) == (1.0, 64)
    assert read.source.untold == {Untold.LOGPROBS}
    assert [note.code for note in read.source.notes] == ["other_agents"]  # the judge is no sample of the policy


def test_turns_of_an_episode_are_what_was_said_after_the_prompt():
    sample = read_rollouts("verifiers", TRACES).samples[1]
    assert isinstance(sample.prompt, tuple)
    assert [message.role for message in sample.prompt] == ["system", "user"]
    assert [message.role for message in sample.turns] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert sample.text == "It is 156."
    assert json.loads(sample.turns[0].extra)["tool_calls"][0]["function"]["name"] == "python"


def test_a_reward_of_weight_zero_counts_where_it_is_chosen():
    assert by_problem(read_rollouts("verifiers", TRACES, score="format"))["arith-0"] == [1.0, 0.0, 0.0]


def test_a_shortened_history_is_no_further_turn(tmp_path: Path):
    row = json.loads((TRACES / "traces.jsonl").read_text().splitlines()[0])
    nodes = row["traces"][0]["nodes"]
    said = {"role": "assistant", "content": "Summary: 12*13 was computed."}
    nodes += [
        {"message": {"role": "user", "content": "What is 12*13?"}, "sampled": False},
        {"parent": 5, "message": said, "sampled": False},
        {"parent": 6, "message": {"role": "assistant", "content": "So 156."}, "sampled": True},
    ]
    sample = read_rollouts("verifiers", write_rows(tmp_path / "traces.jsonl", [row])).samples[0]
    assert (sample.num_turns, sample.text) == (3, "So 156.")


def test_rows_of_before_version_1_have_their_metadata():
    read = read_rollouts("verifiers", RESULTS)
    assert by_problem(read) == {"0": [1.0, 0.2, 0.8], "1": [0.2, 1.0]}
    assert {sample.behavior for sample in read.samples} == {"synthetic-arith"}
    assert read.source.model == "synthetic/test-model"
    assert read.source.sampling is not None
    assert by_problem(read_rollouts("verifiers", RESULTS, score="correct_answer"))["0"] == [1.0, 0.0, 1.0]


def test_rows_that_the_last_version_0_wrote():
    read = read_rollouts("verifiers", ROLLOUTS / "verifiers_v0")
    assert by_problem(read) == {"0": [1.0, 0.0], "1": [0.0, None]}
    assert [sample.num_turns for sample in read.samples] == [2, 1, 1, 1]
    assert [sample.stop for sample in read.samples] == [StopReason.EOS, StopReason.EOS, StopReason.LENGTH, StopReason.ERROR]
    calls = json.loads(read.samples[0].turns[0].extra)["tool_calls"]  # stored as a text within the text
    assert calls[0]["function"]["name"] == "python"
    sampling = read.source.sampling
    assert sampling is not None
    assert (sampling.temperature, sampling.top_k, sampling.min_p, sampling.max_tokens) == (0.7, 0, 0.05, 64)
    assert (read.source.version, read.samples[0].behavior) == ("0.1.14", "arithmetic")


def test_a_tool_call_is_a_turn():
    sample = read_rollouts("verifiers", ROLLOUTS / "verifiers_multi_turn").samples[0]
    assert (sample.num_turns, [turn.role for turn in sample.turns]) == (2, ["assistant", "tool", "assistant"])


def row(example: int | None, prompt: str, reward: float | None, **others: Any) -> dict[str, Any]:
    found = {"example_id": example, "prompt": prompt, "completion": "a", "reward": reward, "is_truncated": False, **others}
    return {key: value for key, value in found.items() if key != "example_id" or value is not None}


HARD = [
    row(0, "p", 1.0),
    row(0, "p", float("nan")),  # not graded
    row(1, "p", 0.0),  # another problem with the same text
    row(0, "q", 0.0),  # one id, another problem: two environments in one file
    row(None, "p", 1.0),  # no id
    row(None, "p", 0.0),
    row(2, "r", 0.0, error={"error": "ToolError"}),  # failed: not a failure of the model
    row(2, "r", 1.0, is_truncated=True, completion=[{"role": "assistant", "content": "cut \ud83d"}]),
]


def test_hard_rows_are_grouped_and_missed_as_they_should_be(tmp_path: Path):
    path = write_rows(tmp_path / "results.jsonl", HARD, end='{"example_id": 3, "pro')
    read = read_rollouts("verifiers", path)
    scores = list(by_problem(read).values())
    assert scores == [[1.0, None], [0.0], [0.0], [1.0, 0.0], [None, 1.0]]
    assert [sample.stop for sample in read.samples][-2:] == [StopReason.ERROR, StopReason.LENGTH]
    assert read.samples[-1].text == "cut \ufffd"
    assert {Untold.PROBLEM_IDS, Untold.SAMPLING} <= read.source.untold
    assert [note.code for note in read.source.notes] == ["torn_line", "ids_not_unique"]


def test_a_compressed_file_reads_like_the_file(tmp_path: Path):
    packed = tmp_path / "results.jsonl.gz"
    packed.write_bytes(gzip.compress((RESULTS / "results.jsonl").read_bytes()))
    plain = by_problem(read_rollouts("verifiers", RESULTS))
    assert by_problem(read_rollouts("verifiers", packed)) == plain
    assert by_problem(read_rollouts("verifiers", tmp_path)) == plain  # found in its folder


def test_one_key_is_one_problem_whatever_else_its_task_holds(tmp_path: Path):
    row = json.loads((TRACES / "traces.jsonl").read_text().splitlines()[0])
    other = json.loads(json.dumps(row))
    for task in (other["task"], other["traces"][0]["task"]):
        task["data"]["timeout"] = {"rollout": 60.0}
    assert by_problem(read_rollouts("verifiers", write_rows(tmp_path / "traces.jsonl", [row, other]))) == {"arith-0": [1.0, 1.0]}
    for task in (other["task"], other["traces"][0]["task"]):
        task["data"]["prompt"] = "What is 13*13?"
    assert len(by_problem(read_rollouts("verifiers", write_rows(tmp_path / "traces.jsonl", [row, other])))) == 2


def test_files_without_a_model_do_not_tell_the_policy():
    assert Untold.POLICY in read_rollouts("verifiers", ROLLOUTS / "verifiers_multi_turn").source.untold
    assert Untold.POLICY not in read_rollouts("verifiers", RESULTS).source.untold


@pytest.mark.parametrize(
    ("content", "options", "code"),
    [
        ([{"question": "p", "answer": "q"}], {}, "not_this_format"),
        ([], {}, "no_samples"),
        (HARD, {"score": "accuracy"}, "unknown_score"),
        (HARD, {"filter": "strict"}, "unused_option"),
        ([row(0, "p", "high")], {}, "invalid_number"),  # type: ignore[arg-type]
        ([row(0, "p", 1.0, completion=3)], {}, "invalid_messages"),
        ([{**row(0, "p", 1.0), "task": "a"}, {**row(0, "p", 1.0), "task": "b"}], {"behavior": "c"}, "unknown_behavior"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, content: list[dict[str, Any]], options: dict[str, Any], code: str):
    with pytest.raises(SourceError) as refused:
        read_rollouts("verifiers", write_rows(tmp_path / "results.jsonl", content), **options)
    assert refused.value.code == code
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "code"), [("absent", "no_such_file"), ("", "no_source_files")])
def test_paths_without_rollouts_are_refused(tmp_path: Path, name: str, code: str):
    with pytest.raises(SourceError) as refused:
        read_rollouts("verifiers", tmp_path / name)
    assert refused.value.code == code


def test_a_line_that_is_not_json_is_named(tmp_path: Path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row(0, "p", 1.0)) + "\n{]\n" + json.dumps(row(0, "p", 1.0)) + "\n")
    with pytest.raises(SourceError, match=r"results\.jsonl:2:") as refused:
        read_rollouts("verifiers", path)
    assert refused.value.code == "invalid_json"
