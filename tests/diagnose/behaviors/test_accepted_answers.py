"""A row may name several answers that are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.verifiers.grader import Grader


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_accepted_answer_scores(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Which state?", "answer": "USA", "answers": ["United States", "USA"]},
        {"prompt": "Which city?", "answers": ["NYC", "New York"]},
    ]
    behavior = load_behavior(write(tmp_path / "rows.jsonl", rows))
    first, second = behavior.problems
    assert first.accepted_answers == ("USA", "United States")
    assert second.accepted_answers == ("NYC", "New York")
    with Grader(behavior) as grader:
        grades = grader.grade(first, ["usa", "United States.", "UK"])
    assert [grade.score for grade in grades] == [1.0, 1.0, 0.0]


def test_the_verifier_is_guessed_from_all_answers(tmp_path: Path) -> None:
    numbers = load_behavior(write(tmp_path / "numbers.jsonl", [{"prompt": "How many?", "answer": "12", "answers": ["13"]}]))
    texts = load_behavior(write(tmp_path / "texts.jsonl", [{"prompt": "How many?", "answer": "12", "answers": ["a dozen eggs"]}]))
    assert (numbers.verifier.kind, texts.verifier.kind) == ("number", "exact")


@pytest.mark.parametrize("answers", [[], "12", [True], [""]])
def test_wrong_answers_are_refused(tmp_path: Path, answers: Any) -> None:
    with pytest.raises(BehaviorError) as caught:
        load_behavior(write(tmp_path / "rows.jsonl", [{"prompt": "How many?", "answers": answers}]))
    assert caught.value.code == "invalid_row"


def test_a_row_without_several_answers_has_the_fingerprint_of_before(tmp_path: Path) -> None:
    one = load_behavior(write(tmp_path / "one.jsonl", [{"id": "a", "prompt": "How many?", "answer": "12"}]))
    same = load_behavior(write(tmp_path / "one.jsonl", [{"id": "a", "prompt": "How many?", "answer": "12", "answers": ["12"]}]))
    more = load_behavior(write(tmp_path / "one.jsonl", [{"id": "a", "prompt": "How many?", "answer": "12", "answers": ["13"]}]))
    assert one.fingerprint == same.fingerprint != more.fingerprint
