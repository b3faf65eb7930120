"""Rows that other projects published, as they stand in their files (tests/fixtures/data_sets), and rows in their layouts that are hard to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused

from posttrain.diagnose.behaviors import BehaviorOptions, load_behavior
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message
from posttrain.diagnose.verifiers.sandbox import isolation

PUBLISHED = Path(__file__).parents[2] / "fixtures" / "data_sets"
ALL = BehaviorOptions(split_eval="all")


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k() -> None:
    behavior = load_behavior(PUBLISHED / "gsm8k.jsonl", ALL)
    assert (behavior.verifier.kind, [problem.answer for problem in behavior.problems]) == ("number", ["18", "3", "70000"])
    assert behavior.problems[0].references[0].steps == (
        "Janet sells 16 - 3 - 4 = 9 duck eggs a day.\n",
        "She makes 9 * 2 = $18 every day at the farmer’s market.\n",
        "#### 18",
    )


def test_humaneval() -> None:
    if not isolation.available():
        pytest.skip("nothing isolates programs here")
    behavior = load_behavior(PUBLISHED / "humaneval.jsonl.gz", ALL)
    assert (behavior.verifier.kind, [problem.id for problem in behavior.problems]) == ("code", ["HumanEval/0", "HumanEval/1"])
    assert behavior.problems[0].metadata["entry_point"] == "has_close_elements"


def test_nemo_gym() -> None:
    choice = load_behavior(PUBLISHED / "nemo_gym_mcqa.jsonl", ALL)
    first = choice.problems[0]
    assert (choice.verifier.kind, first.answer, first.id) == ("choice", "B", "3c26f339-4b88-54be-b72a-e9c438ca6335")
    assert isinstance(first.prompt[0], Message)
    assert first.prompt[0].content.startswith("You should output your final response letter")
    assert first.metadata["choices"][1] == "Polymerase Chain Reaction (PCR)"
    maths = load_behavior(PUBLISHED / "nemo_gym_math.jsonl", ALL)
    assert maths.problems[0].answer == "32"
    assert maths.problems[0].question.startswith("Solve the following math problem.")  # what its model is sent, not `question`


def test_inspect() -> None:
    behavior = load_behavior(PUBLISHED / "inspect_theory_of_mind.jsonl", ALL)
    assert (behavior.verifier.kind, [problem.answer for problem in behavior.problems]) == ("exact", ["bathtub", "pantry"])
    assert behavior.problems[0].question.startswith("Jackson entered the hall.")


def test_what_nemo_gym_writes_elsewhere(tmp_path: Path) -> None:
    asked = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "1+1?"}], "type": "message"},
    ]
    rows = [
        {"responses_create_params": {"input": asked}, "verifier_metadata": {"ideal": ["2", "two"]}},
        {
            "responses_create_params": {"input": "1+1?", "instructions": "Be brief."},
            "expected_answer": 2,
            "response": {"id": "r"},
        },
    ]
    first, second = load_behavior(write(tmp_path / "rows.jsonl", *rows), ALL).problems
    assert first.prompt == second.prompt == (Message("system", "Be brief."), Message("user", "1+1?"))
    assert (first.accepted_answers, second.accepted_answers) == (("2", "two"), ("2",))


@pytest.mark.parametrize(
    "asked",
    [{"input": "1+1?", "tools": [{"name": "search"}]}, {"input": []}, {"tools": []}, "1+1?"],
    ids=["tools", "no turn", "no input", "text"],
)
def test_rows_of_nemo_gym_that_cannot_be_asked_are_refused(tmp_path: Path, asked: Any) -> None:
    with refused(BehaviorError, "invalid_row"):
        load_behavior(write(tmp_path / "rows.jsonl", {"responses_create_params": asked, "expected_answer": 2}))


def test_one_object_over_several_lines_is_no_file_of_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"version": 1, "names": ["a"]}, indent=1))
    with refused(BehaviorError, "invalid_json") as caught:
        load_behavior(tmp_path / "rows.json")
    assert "array of objects" in str(caught.value)
