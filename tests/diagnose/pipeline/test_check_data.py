"""A file of problems is checked before any sample is taken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.diagnose.behaviors import BehaviorOptions
from posttrain.diagnose.pipeline.check_data import check_data
from posttrain.diagnose.report.data_check_words import data_check_lines
from posttrain.diagnose.storage.data_check_json import DataCheckFile, DataWarning
from posttrain.diagnose.types import ValidityCode, VerifierOrigin
from posttrain.diagnose.verifiers.sandbox import isolation

LAYOUTS = Path(__file__).parents[1] / "behaviors" / "layouts"


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(num: int, **more: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "prompt": f"What is {i} plus 100?", "answer": i + 100, **more} for i in range(num)]


def codes(check: DataCheckFile) -> dict[str, int]:
    return {warning.code: warning.num for warning in check.warnings}


def test_what_is_read_and_how_five_texts_are_graded() -> None:
    check = check_data(LAYOUTS / "gsm8k.jsonl")
    assert (check.num_rows, dict(check.splits)) == (8, {"eval": 3, "train": 4, "final": 1})
    assert (check.num_with_references, check.num_steps) == (8, 3)
    assert (check.verifier.kind, check.verifier.origin) == ("number", VerifierOrigin.GUESSED)
    assert [(one.kind, one.is_right, one.accepted) for one in check.graded] == [
        ("answer", True, True),
        ("reference", True, True),
        ("wrong_answer", False, False),
        ("empty", False, False),
        ("other_answer", False, False),
    ]
    assert (check.prompt.num_tokens, check.lengths.unit, check.lengths.context) == (None, "characters", None)
    assert codes(check) == {}
    assert DataCheckFile.model_validate(json.loads(json.dumps(check.to_json()))).to_json() == check.to_json()
    assert data_check_lines(check)[-1] == "no warnings"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math", "mmlu", "arc", "ifeval", "bbh", "humaneval", "mbpp"])
def test_published_layouts_have_no_warnings(name: str) -> None:
    if name in ("humaneval", "mbpp") and not isolation.available():
        pytest.skip("nothing isolates programs here")
    check = check_data(LAYOUTS / f"{name}.jsonl")
    assert codes(check) == {}
    assert all(one.accepted is one.is_right for one in check.graded if one.is_right is not None)


def test_a_model_writes_the_prompt_and_is_not_loaded(tiny_model: Path, tmp_path: Path) -> None:
    (tiny_model / "model.safetensors").rename(tmp_path / "weights")
    try:
        path = write(tmp_path / "rows.jsonl", *sums(6), {"prompt": "1 plus " * 100, "answer": 7})
        check = check_data(path, BehaviorOptions(split_eval="all"), model=tiny_model)
    finally:
        (tmp_path / "weights").rename(tiny_model / "model.safetensors")
    assert check.prompt.text == "What is 0 plus 100?"
    assert check.prompt.num_tokens == len(check.prompt.text)  # a token is a character
    assert (check.lengths.unit, check.lengths.max, check.lengths.context) == ("tokens", 700, 512)
    assert codes(check) == {DataWarning.LONG_PROMPTS: 1}


def test_what_may_be_wrong_is_said(tmp_path: Path) -> None:
    rows = [
        *sums(10),
        {**sums(1)[0], "id": "again"},
        {**sums(2)[1], "id": "other", "answer": "7"},
        {"prompt": "Repeat the word zebra.", "answer": "zebra"},
        {"prompt": "word " * 5000, "answer": "8"},
        {"prompt": "What is 5 times 5?", "answer": "25", "references": ["It is 26."]},
        {"prompt": "What is 5, plus 100 ?", "answer": "105", "split": "train"},
    ]
    check = check_data(write(tmp_path / "rows.jsonl", *({"split": "eval", **row} for row in rows)))
    assert codes(check) == {
        DataWarning.DUPLICATE_PROBLEMS: 2,
        DataWarning.CONTRADICTING_ANSWERS: 1,
        DataWarning.ANSWER_IN_PROMPT: 1,
        DataWarning.LONG_PROMPTS: 1,
        DataWarning.NEAR_OVERLAP: 1,
        ValidityCode.REFUSES_REFERENCES: 1,
    }
    assert all("\n" not in warning.words for warning in check.warnings)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(("7",) * 12, {DataWarning.CONSTANT_ANSWER: 12}), (("even", "odd") * 6, {})],
    ids=["one answer", "answers that the question lists"],
)
def test_answers_of_the_whole_file(tmp_path: Path, answers: Sequence[str], expected: dict[str, int]) -> None:
    rows = [{"prompt": f"Is {i} even or odd?", "answer": answer} for i, answer in enumerate(answers)]
    assert codes(check_data(write(tmp_path / "rows.jsonl", *rows), BehaviorOptions(split_eval="all"))) == expected


def test_answers_that_the_verifier_cannot_read_back(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "answer": f"value {i}"} for i in range(6)]
    path = write(tmp_path / "rows.jsonl", *rows)
    regex = {"kind": "regex", "pattern": "result: (.*)"}
    check = check_data(path, BehaviorOptions(split_eval="all", verifier=regex))
    assert codes(check)[ValidityCode.REFUSES_ANSWERS] == 6
    assert [one.accepted for one in check.graded if one.kind == "answer"] == [False]
