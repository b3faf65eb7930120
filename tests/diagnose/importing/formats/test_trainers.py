"""Rollouts of verl, NeMo-RL, open-instruct, tinker-cookbook and AReaL, written by the functions of these tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.rollout_files import ROLLOUTS, by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ImportedSamples, Untold
from posttrain.diagnose.types import StopReason

NAN = float("nan")


def at_step(read: ImportedSamples, step: str) -> list[float | None]:
    return [sample.score for sample in read.samples if sample.policy == step]


def test_verl_has_a_policy_for_each_step():
    read = read_rollouts("verl", ROLLOUTS / "verl" / "rollout_data")
    assert (at_step(read, "1"), at_step(read, "2")) == ([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0])
    assert len({sample.problem for sample in read.samples}) == 2
    assert (read.samples[0].text, read.samples[0].answer, read.samples[0].behavior) == ("four", "4", "rollout_data")
    assert {Untold.PROBLEM_IDS, Untold.COMPLETENESS, Untold.STOP_REASONS, Untold.TOKEN_COUNTS} <= read.source.untold


def test_verl_has_a_score_to_choose():
    file = ROLLOUTS / "verl" / "validation_data"
    assert [sample.score for sample in read_rollouts("verl", file).samples] == [1.0, -1.0]
    assert [sample.score for sample in read_rollouts("verl", file, score="acc").samples] == [1.0, 0.0]
    with pytest.raises(SourceError) as refused:
        read_rollouts("verl", file, score="pred")
    assert refused.value.code == "unknown_score"


def test_verl_hard_file(tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"input": "p", "output": "a", "score": 1.0, "step": 7},  # an old version, without gts
        {"input": "p", "output": "", "score": NAN, "step": 7, "gts": None},
        {"input": "p", "output": "a", "score": 0.0, "step": 7, "gts": ["4", "four"]},  # one text, another answer
        {"input": "p", "output": "b", "score": 0.0, "step": 7, "gts": ["4", "four"]},
    ]
    read = read_rollouts("verl", write_rows(tmp_path / "7.jsonl", rows))
    assert list(by_problem(read).values()) == [[1.0, None], [0.0, 0.0]]
    assert read.source.model == "unknown, step 7"


def test_nemo_rl_validation_has_chats_and_training_has_tokens():
    val = read_rollouts("nemo-rl", ROLLOUTS / "nemo_rl" / "val_data_step2.jsonl")
    assert list(by_problem(val).values()) == [[1.0, 0.0], [1.0, 0.0]]
    assert [sample.num_turns for sample in val.samples] == [1, 1, 2, 1]
    train = read_rollouts("nemo-rl", ROLLOUTS / "nemo_rl" / "train_data_step1.jsonl")
    assert list(by_problem(train).values()) == [[1.0, 0.0], [0.0, 1.0]]
    assert [sample.num_tokens for sample in train.samples] == [2, 3, 2, 2]
    assert [sample.num_turns for sample in train.samples] == [1, 1, 1, 2]
    assert Untold.TEXTS in train.source.untold
    both = read_rollouts("nemo-rl", ROLLOUTS / "nemo_rl")
    assert {sample.behavior for sample in both.samples} == {"nemo-rl.train", "nemo-rl.val"}


def test_nemo_rl_filtered_rows_are_refused(tmp_path: Path):
    rows = [json.loads(line) for line in (ROLLOUTS / "nemo_rl" / "train_data_step1.jsonl").read_text().splitlines()]
    for row, reward in zip(rows, (0.0, 1.0, 1.0, 0.0), strict=True):
        row["filtered_rewards"], row["rewards"] = [reward], [9.0]
    path = write_rows(tmp_path / "train_data_step1.jsonl", rows)
    with pytest.raises(SourceError) as refused:
        read_rollouts("nemo-rl", path)
    assert refused.value.code == "biased_source"
    accepted = read_rollouts("nemo-rl", path, accept_biased=True)
    assert [sample.score for sample in accepted.samples] == [0.0, 1.0, 1.0, 0.0]
    assert Untold.COMPLETENESS in accepted.source.untold


def test_nemo_rl_rows_without_tokens_tell_no_problem(tmp_path: Path):
    with pytest.raises(SourceError) as refused:
        read_rollouts("nemo-rl", write_rows(tmp_path / "train_data_step1.jsonl", [{"content": ["2+2? 4"], "rewards": [1.0]}]))
    assert refused.value.code == "not_this_format"


def test_open_instruct_is_refused_unless_its_bias_is_accepted():
    folder = ROLLOUTS / "open_instruct"
    with pytest.raises(SourceError) as refused:
        read_rollouts("open-instruct", folder)
    assert refused.value.code == "biased_source"
    read = read_rollouts("open-instruct", folder, accept_biased=True)
    assert at_step(read, "1") == [1.0, 0.0, 10.0, 0.0]
    assert len({sample.problem for sample in read.samples}) == 2
    assert [sample.stop for sample in read.samples][:2] == [StopReason.EOS, StopReason.LENGTH]
    assert [sample.num_turns for sample in read.samples][:2] == [1, 3]
    assert read.source.model == "tiny-policy"
    assert {Untold.TEXTS, Untold.PROMPTS, Untold.COMPLETENESS} <= read.source.untold


def test_open_instruct_has_texts_with_its_tokenizer(tiny_model: Path):
    read = read_rollouts("open-instruct", ROLLOUTS / "open_instruct", accept_biased=True, tokenizer=str(tiny_model))
    assert Untold.TEXTS not in read.source.untold
    assert all(isinstance(sample.text, str) and isinstance(sample.prompt, str) for sample in read.samples)
    with pytest.raises(SourceError) as refused:
        read_rollouts("open-instruct", ROLLOUTS / "open_instruct", accept_biased=True, tokenizer=str(tiny_model / "absent"))
    assert refused.value.code == "tokenizer"


def test_tinker_tells_problems_by_their_place():
    read = read_rollouts("tinker", ROLLOUTS / "tinker")
    assert {sample.behavior for sample in read.samples} == {"arith.train", "arith.eval.arith"}
    train = read_rollouts("tinker", ROLLOUTS / "tinker", behavior="arith.train")
    assert by_problem(train) == {"0-0": [0.0, 1.0, 0.0], "0-1": [0.0] * 3, "1-0": [1.0, 1.0, 0.0], "1-1": [0.0, 1.0, 0.0]}
    assert [sample.num_turns for sample in train.samples][:6] == [1, 2, 1, 1, 1, 3]
    assert train.samples[1].num_tokens == 4 + 5
    assert train.source.model == "tiny-policy"
    assert {Untold.TEXTS, Untold.PROBLEM_IDS} <= train.source.untold
    assert read_rollouts("tinker", ROLLOUTS / "tinker", behavior="arith.train", score="format").samples[0].score == 1.0


def test_tinker_without_constant_groups_is_refused(tmp_path: Path):
    run = shutil.copytree(ROLLOUTS / "tinker", tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"remove_constant_reward_groups": True}))
    with pytest.raises(SourceError) as refused:
        read_rollouts("tinker", run)
    assert refused.value.code == "biased_source"
    evaluation = run / "iteration_000001" / "eval_arith_rollout_summaries.jsonl"
    assert by_problem(read_rollouts("tinker", evaluation)) == {"0": [1.0], "1": [0.0]}  # evaluations keep all groups


def test_areal_lacks_empty_completions():
    folder = ROLLOUTS / "areal" / "rollout"
    with pytest.raises(SourceError) as refused:
        read_rollouts("areal", folder)
    assert refused.value.code == "biased_source"
    read = read_rollouts("areal", folder, accept_biased=True)
    assert at_step(read, "1") == [1.0, 0.0, 1.0, 1.0, 0.0]  # of six samples, one was empty
    assert [sample.num_tokens for sample in read.samples][:2] == [2, 2]
    assert [note.code for note in read.source.notes] == ["empty_left_out", "mixed_policy"]
    both = read_rollouts("areal", ROLLOUTS / "areal", accept_biased=True)
    assert {sample.behavior for sample in both.samples} == {"areal.train", "areal.eval"}


@pytest.mark.parametrize("format", ["verl", "nemo-rl", "open-instruct", "tinker", "areal"])
def test_rows_of_another_format_are_refused(format: str, tmp_path: Path):
    with pytest.raises(SourceError) as refused:
        read_rollouts(format, write_rows(tmp_path / "rows.jsonl", [{"question": "p", "answer": "q"}]), accept_biased=True)
    assert refused.value.code == "not_this_format"
    with pytest.raises(SourceError) as refused:
        read_rollouts(format, write_rows(tmp_path / "rows.jsonl", []), filter="strict")
    assert refused.value.code == "unused_option"
