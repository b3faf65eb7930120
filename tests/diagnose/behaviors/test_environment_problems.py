"""Environments as behaviors: which problems are read, which of them may be trained on, and what is refused before anything is sampled."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.environments import use_stand_in, write_environment
from helpers.refusals import refused
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Behavior, Split


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_stand_in(tmp_path, monkeypatch)
    return tmp_path


def count_splits(behavior: Behavior) -> dict[str, int]:
    return {str(split): num for split, num in Counter(problem.split for problem in behavior.problems).items()}


def test_what_is_in_the_eval_set_is_never_trained_on(folder: Path) -> None:
    """Two of its train problems stand in its eval set as well: they are measured."""
    behavior = load_behavior(write_environment(folder, {"num_train": 3, "num_eval": 4, "shared": 2}))
    assert count_splits(behavior) == {"train": 3, "eval": 4}
    train, measured = ({problem.key for problem in behavior.split(split)} for split in (Split.TRAIN, Split.EVAL))
    assert not train & measured
    assert measured == {f"2 + {i} =" for i in range(4)}
    assert len(behavior.notes) == 1
    first = behavior.split(Split.EVAL)[0]
    assert (first.id, first.prompt, first.answer) == ("eval-0", "2 + 0 =", "2")


@pytest.mark.parametrize(
    ("arguments", "settings", "splits"),
    [
        ({"num_eval": 4}, {}, {"eval": 4}),
        ({"num_train": 10}, {}, {"train": 5, "eval": 4, "final": 1}),
        ({"num_train": 10, "num_eval": 4}, {"split": "train"}, {"train": 5, "eval": 4, "final": 1}),
        ({"num_train": 10, "num_eval": 4}, {"split": "eval"}, {"eval": 4}),
        ({"num_train": 10, "num_eval": 4}, {"size": 3}, {"train": 3, "eval": 3}),
        ({"num_train": 3}, {"eval_arguments": {"num_train": None, "num_eval": 2}}, {"train": 3, "eval": 2}),
        ({"num_train": 3}, {"eval_arguments": {"num_train": 5}}, {"eval": 5}),
    ],
)
def test_sets_become_splits(arguments: dict[str, Any], settings: dict[str, Any], splits: dict[str, int], folder: Path) -> None:
    """An eval set alone is all measured, and a train set alone is divided. Of a set that is read twice nothing is left to train on."""
    assert count_splits(load_behavior(write_environment(folder, arguments, **settings))) == splits


def test_all_problems_can_be_measured(folder: Path) -> None:
    path = write_environment(folder, {"num_train": 3, "num_eval": 4})
    assert count_splits(load_behavior(path, BehaviorOptions(split_eval="all"))) == {"eval": 7}


@pytest.mark.parametrize(
    ("arguments", "settings", "code"),
    [
        ({"num_eval": 2, "num_evl": 2}, {}, "environment_arguments"),
        ({"num_eval": 2, "kind": "MultiTurnEnv"}, {}, "multi_turn_environment"),
        ({"num_eval": 2, "times": 2}, {}, "multi_turn_environment"),
        ({"num_eval": 2, "rubric": "JudgeRubric"}, {}, "environment_judge"),
        ({"num_eval": 2, "kind": "none"}, {}, "environment_failed"),
        ({"num_eval": 2, "weight": 0.0}, {}, "no_rewards"),
        ({"num_eval": 2, "weight": 0.5}, {}, "no_success_score"),
        ({"num_eval": 2, "weight": 2.0}, {}, "score_range"),
        ({"num_eval": 2, "weight": -1.0}, {}, "score_range"),
        ({"num_train": 2}, {"split": "eval"}, "environment_split"),
        ({"num_eval": 0}, {}, "environment_split"),
        ({"num_train": 2, "num_eval": 2, "anew": True}, {}, "environment_changes"),
        ({"num_eval": 2}, {"name": "products-env"}, "no_environment"),
        ({"num_eval": 2}, {"name": "json"}, "no_environment"),
        ({"num_eval": 2}, {"splitt": "eval"}, "invalid_setting"),
        ({"num_eval": 2}, {"split": "test"}, "invalid_setting"),
        ({"num_eval": 2}, {"split": "eval", "eval_arguments": {"num_eval": 3}}, "invalid_setting"),
        ({"num_eval": 2}, {"more": "problems: rows.jsonl"}, "invalid_setting"),
        ({"num_eval": 2}, {"more": "split: {train: rows.jsonl}"}, "invalid_setting"),
        ({"num_eval": 2}, {"more": "split: {train: 0.5}"}, "split_given_twice"),
        ({"num_eval": 2}, {"more": "verifier: {kind: number}\nmeasure: {success: 2}"}, "invalid_setting"),
        ({"num_eval": 2}, {"more": "prompt: {examples: [{question: '2 + 1 =', answer: '3'}]}"}, "example_is_measured"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    arguments: dict[str, Any], settings: dict[str, Any], code: str, folder: Path
) -> None:
    with refused(BehaviorError, code):
        load_behavior(write_environment(folder, arguments, **settings))


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="verifiers is installed")
def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with refused(BehaviorError, "no_verifiers"):
        load_behavior(write_environment(tmp_path))


def test_scores_alone_lie_between_0_and_1(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n{"prompt": "1 + 2 =", "answer": "3"}\n')
    (tmp_path / "b.yaml").write_text("problems: rows.jsonl\nmeasure: {success: 1.5}\n")
    with refused(BehaviorError, "invalid_setting"):
        load_behavior(tmp_path / "b.yaml")


@pytest.mark.parametrize(("parser", "thinking"), [("Parser", "auto"), ("ThinkParser", "none"), ("MaybeThinkParser", "auto")])
def test_a_thought_that_the_parser_wants_to_see_is_not_cut_off(parser: str, thinking: str, folder: Path) -> None:
    behavior = load_behavior(write_environment(folder, {"num_eval": 2, "parser": parser}))
    assert behavior.prompt.thinking == thinking


def test_problems_of_an_environment_can_have_a_verifier_of_ours(folder: Path) -> None:
    """Then it does not matter where its rewards lie."""
    path = write_environment(folder, {"num_eval": 2, "weight": 2.0}, more="verifier: {kind: number}")
    assert load_behavior(path).verifier.kind == "number"


def test_a_name_alone_and_its_grader_by_name(folder: Path) -> None:
    module = folder / "sums_env.py"
    module.write_text(module.read_text().replace("num_eval=None", "num_eval=3"))
    path = folder / "b.yaml"
    path.write_text("environment: sums-env\n")
    alone = load_behavior(path)
    path.write_text("environment: {name: sums-env}\nverifier: {kind: environment}\n")
    assert load_behavior(path).fingerprint == alone.fingerprint
    assert count_splits(alone) == {"eval": 3}


def test_check_and_dry_run_sample_nothing(folder: Path) -> None:
    path = write_environment(folder, {"num_train": 4, "num_eval": 4}, more="sampling: {max_tokens: 4}")
    (folder / "scripted.yaml").write_text("success: 0.5\n")
    for words in (
        ["check", str(path)],
        ["diagnose", str(folder / "scripted.yaml"), str(path), "--engine", "scripted", "--dry-run"],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (done.output, done.exception)
    error = CliRunner().invoke(app, ["init", str(path)]).exception
    assert isinstance(error, BehaviorError)
    assert error.code == "not_a_problem_file"
