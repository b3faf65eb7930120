"""Rollouts of prime-rl: written by its own file monitor, and rows of its earlier versions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.rollout_files import ROLLOUTS, by_problem, read_rollouts, write_rows

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import Untold

RUN = ROLLOUTS / "prime_rl" / "rollouts"


def test_each_step_is_a_policy_and_effective_rollouts_are_left_aside():
    read = read_rollouts("prime-rl", RUN)
    assert len(read.samples) == 15
    assert {sample.policy for sample in read.samples} == {"0", "1", "2"}
    assert [sample.score for sample in read.samples if sample.policy == "2"] == [1.0, 1.0, 0.0, 1.0, None]
    assert Untold.COMPLETENESS not in read.source.untold


def test_a_step_alone_is_named_in_the_model():
    read = read_rollouts("prime-rl", RUN / "step_1")
    assert {sample.policy for sample in read.samples} == {""}
    assert read.source.model == "tiny-policy, step 1"
    assert by_problem(read) == {"arith-0": [0.0, 1.0], "arith-1": [0.0, 1.0, None]}


def test_effective_rollouts_are_refused_and_marked_where_they_are_accepted(tmp_path: Path):
    effective = RUN / "step_1" / "train" / "effective" / "traces.jsonl"
    with pytest.raises(SourceError) as refused:
        read_rollouts("prime-rl", effective)
    assert refused.value.code == "biased_source"
    assert str(RUN / "step_1" / "train" / "all") in str(refused.value)
    accepted = read_rollouts("prime-rl", effective, accept_biased=True)
    assert by_problem(accepted) == {"arith-0": [0.0, 1.0]}
    assert Untold.COMPLETENESS in accepted.source.untold
    assert [note.code for note in accepted.source.notes] == ["effective_only"]
    shutil.copytree(effective.parent, tmp_path / "step_1" / "train" / "effective")
    with pytest.raises(SourceError) as refused:
        read_rollouts("prime-rl", tmp_path)
    assert refused.value.code == "biased_source"


def test_evaluations_are_kept_apart_from_training(tmp_path: Path):
    shutil.copytree(RUN / "step_0" / "train" / "all", tmp_path / "step_0" / "train" / "all")
    shutil.copytree(RUN / "step_0" / "train" / "all", tmp_path / "step_0" / "eval" / "all")
    read = read_rollouts("prime-rl", tmp_path)
    assert {sample.behavior for sample in read.samples} == {"arithmetic-tools.eval", "arithmetic-tools.train"}
    assert len(read_rollouts("prime-rl", tmp_path, behavior="arithmetic-tools.eval").samples) == 5


def test_weights_of_another_step_are_said(tmp_path: Path):
    rows = [json.loads(line) for line in (RUN / "step_1" / "train" / "all" / "traces.jsonl").read_text().splitlines()]
    rows[0]["run"]["work"]["policy"] = {"start": 0, "end": 1}  # the weights changed while it ran
    rows[1]["run"]["work"]["policy"] = {"start": 0, "end": 0}  # sampled before the last update
    write_rows(tmp_path / "step_1" / "train" / "all" / "traces.jsonl", rows)
    notes = read_rollouts("prime-rl", tmp_path / "step_1" / "train" / "all").source.notes
    assert [(note.code, note.text.split()[0]) for note in notes] == [("mixed_policy", "2")]
    assert read_rollouts("prime-rl", RUN / "step_1").source.notes == ()


def test_rows_of_a_batch_may_be_a_selection():
    read = read_rollouts("prime-rl", ROLLOUTS / "prime_rl_old")
    assert {sample.policy for sample in read.samples} == {"0", "1"}
    assert Untold.COMPLETENESS in read.source.untold
    assert "batches_only" in [note.code for note in read.source.notes]
