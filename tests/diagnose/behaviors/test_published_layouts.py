"""Rows as GSM8K, MATH, MMLU, ARC, HumanEval, MBPP and IFEval publish them: from a file to a report. The rows are our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.refusals import refused

from posttrain import diagnose
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.pipeline.run_plan import plan_run
from posttrain.diagnose.types import Bottleneck, Problem, VerifierOrigin
from posttrain.diagnose.verifiers.reader.boxes import last_box
from posttrain.diagnose.verifiers.sandbox import isolation

LAYOUTS = Path(__file__).parent / "layouts"
KINDS = {
    "gsm8k": ("number", VerifierOrigin.GUESSED),
    "math": ("math", VerifierOrigin.LAYOUT),
    "mmlu": ("choice", VerifierOrigin.LAYOUT),
    "arc": ("choice", VerifierOrigin.LAYOUT),
    "humaneval": ("code", VerifierOrigin.LAYOUT),
    "mbpp": ("code", VerifierOrigin.LAYOUT),
    "ifeval": ("ifeval", VerifierOrigin.LAYOUT),
    "bbh": ("choice", VerifierOrigin.GUESSED),
}
FOLLOWS = "the water goes on and the snow melts over the hill until the end."


def published(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LAYOUTS / f"{name}.jsonl").read_text().splitlines()]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_one(folder: Path, row: dict[str, Any], *others: dict[str, Any]) -> Problem:
    return load_behavior(write(folder / "rows.jsonl", row, *others)).problems[0]


@pytest.mark.slow
def test_from_a_file_to_a_report(tmp_path: Path) -> None:
    names = [name for name, (kind, _) in KINDS.items() if kind != "code" or isolation.available()]
    settings = "sampling: {max_tokens: 500}\nsplit: {train: 0.0, final: 0.0}\n"
    for name in names:
        (tmp_path / f"{name}.yaml").write_text(f"problems: {LAYOUTS / name}.jsonl\n{settings}")
    follows = {str(row["key"]): 0.0 for row in published("ifeval")}  # of these the other text is the right one
    model = tmp_path / "model.yaml"
    model.write_text(json.dumps({"success": {"default": 1.0, **follows}, "wrong": FOLLOWS}))
    behaviors = [tmp_path / f"{name}.yaml" for name in names]
    run = diagnose.run(model, behaviors, out=tmp_path / "run", engine="scripted", samples=2, probes=["none"])
    entries = json.loads((tmp_path / "run" / "diagnosis.json").read_text())["behaviors"]
    assert {one["name"]: (one["verifier"]["kind"], one["verifier"]["origin"]) for one in entries} == {
        one: KINDS[one] for one in names
    }
    for entry in entries:
        assert [(one["num_correct"], one["num_missing"]) for one in entry["problems"]] == [(2, 0)] * 8, entry["name"]
    assert all(diagnosis.bottleneck is not Bottleneck.INVALID for diagnosis in run.diagnoses)
    for page in ("report.md", "report.html"):
        text = (tmp_path / "run" / page).read_text()
        assert all(KINDS[name][0] in text for name in names)


@pytest.mark.parametrize("name", KINDS)
def test_a_parquet_file_is_read_like_a_jsonl_file(name: str, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(published(name)), tmp_path / f"{name}.parquet")
    from_table, from_lines = load_behavior(tmp_path / f"{name}.parquet"), load_behavior(LAYOUTS / f"{name}.jsonl")
    assert [one.prompt for one in from_table.problems] == [one.prompt for one in from_lines.problems]
    assert [one.answer for one in from_table.problems] == [one.answer for one in from_lines.problems]
    assert (from_table.verifier, from_table.verifier_origin) == (from_lines.verifier, from_lines.verifier_origin)


@pytest.mark.parametrize("name", KINDS)
def test_what_was_recognised_is_said_before_a_run(name: str, tmp_path: Path) -> None:
    request = DiagnoseRequest(model="m", behaviors=[LAYOUTS / f"{name}.jsonl"], out=tmp_path / "run", engine="scripted")
    lines = plan_run(request).lines
    assert any(line.strip().startswith(f"verifier: {KINDS[name][0]}, ") for line in lines)
    (note,) = request.loaded[0].notes
    assert any(note in line for line in lines)
    if name != "ifeval":  # its prompts say how to answer
        proposal = json.loads(note.partition("prompt: ")[2])
        assert proposal["template"].count("{question}") == 1


def test_a_prompt_that_says_how_to_answer_needs_no_proposal(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f'problems: {LAYOUTS / "gsm8k.jsonl"}\nprompt: {{template: "{{question}} End with ####."}}\n')
    assert "template" not in load_behavior(path).notes[0]


def test_what_is_said_of_a_file_changes_no_fingerprint(tmp_path: Path) -> None:
    row = {"problem": "Add 1 and 1.", "answer": "2"}
    ours = {"prompt": "Add 1 and 1.", "answer": "2", "id": "row-1"}
    yaml = "verifier: {kind: number}\nsplit: {train: 0.0, final: 0.0}\nname: one\n"
    for name, content in (("a", row), ("b", ours)):
        write(tmp_path / f"{name}.jsonl", content)
        (tmp_path / f"{name}.yaml").write_text(f"problems: {name}.jsonl\n{yaml}")
    assert load_behavior(tmp_path / "a.yaml").fingerprint == load_behavior(tmp_path / "b.yaml").fingerprint


def test_solutions_are_references_in_steps(tmp_path: Path) -> None:
    problem = read_one(
        tmp_path, {"question": "How many?", "answer": "3+4=<<3+4=7>>7 a day.\n\nTwice that is <<2*7=14>>14.\n#### 14"}
    )
    assert (problem.prompt, problem.answer) == ("How many?", "14")
    assert problem.references[0].steps == ("3+4=7 a day.\n\n", "Twice that is 14.\n", "#### 14")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"First \boxed{3}, then \boxed{\{1, 2\}}.", r"\{1, 2\}"),
        (r"It is \fbox{4}.", "4"),
        (r"Thus $x = \boxed 5$.", "5"),
        (r"So \boxed{\text{(A)}} and not \boxed{7", r"\text{(A)}"),
    ],
)
def test_the_answer_stands_in_the_last_closed_box(tmp_path: Path, solution: str, answer: str) -> None:
    assert read_one(tmp_path, {"problem": "p", "solution": solution, "level": "Level 1"}).answer == answer


def test_an_answer_beside_the_solution_counts(tmp_path: Path) -> None:
    row = {"problem": "p", "solution": r"\boxed{1.50}", "answer": "1.5", "level": 3, "subject": "s", "unique_id": "test/a/1.json"}
    problem = read_one(tmp_path, row)
    assert (problem.id, problem.answer, dict(problem.metadata)) == ("test/a/1.json", "1.5", {"level": 3, "subject": "s"})


@pytest.mark.parametrize(
    ("row", "letter", "num"),
    [
        ({"question": "q", "choices": ["w", "x", "y", "z"], "answer": 2}, "C", 4),
        ({"question": "q", "choices": ["w", "x", "y", "z"], "answer": "C"}, "C", 4),
        ({"question": "q", "choices": ["w", "x", "y", "z"], "answer": "2"}, "C", 4),
        ({"question": "q", "options": list("qrstuvwxyz"), "answer": "J", "answer_index": 9, "category": "c"}, "J", 10),
        ({"question": "q", "choices": {"text": ["w", "x"], "label": ["A", "B"]}, "answerKey": "B"}, "B", 2),
        ({"question": "q", "choices": {"text": ["w", "x", "y"], "label": ["1", "2", "3"]}, "answerKey": "3"}, "C", 3),
        (
            {"question": {"stem": "q", "choices": [{"text": "w", "label": "A"}, {"text": "x", "label": "B"}]}, "answerKey": "A"},
            "A",
            2,
        ),
    ],
)
def test_choices_are_listed_under_letters(tmp_path: Path, row: dict[str, Any], letter: str, num: int) -> None:
    problem = read_one(tmp_path, row)
    assert problem.answer == letter
    assert str(problem.prompt).splitlines()[0] == "q"
    assert [line[:3] for line in str(problem.prompt).splitlines()[1:]] == [f"{one}. " for one in "ABCDEFGHIJ"[:num]]
    assert len(problem.metadata["choices"]) == num


def test_sanitized_rows_of_mbpp_have_a_prompt(tmp_path: Path) -> None:
    row = {
        "source_file": "x",
        "task_id": 2,
        "prompt": "Add.",
        "code": "def f(a, b):\n    return a + b",
        "test_imports": ["import math"],
    }
    problem = read_one(tmp_path, {**row, "test_list": ["assert f(1, 2) == 3"]})
    assert (problem.id, problem.answer) == ("2", "")
    assert "assert f(1, 2) == 3" in str(problem.prompt)
    assert problem.metadata["test_imports"] == ["import math"]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{"question": "q", "choices": ["w", "x"], "answer": 2}], "invalid_row"),
        ([{"question": "q", "choices": ["w", "x"], "answer": "E"}], "invalid_row"),
        ([{"question": "q", "choices": ["w"], "answer": 0}], "invalid_row"),
        ([{"question": "q", "choices": ["w", "x"], "answer": 0}, {"question": "r", "answer": 0}], "invalid_row"),
        ([{"problem": "p", "solution": r"\boxed{1}"}, {"problem": "q", "solution": "no box"}], "invalid_row"),
        ([{"problem": "p", "solution": "no\nbox"}], "multi_line_answer"),
        ([{"question": "q", "answer": "no number: ####"}], "invalid_row"),
        ([{"text": "t", "test_list": "assert f(1)"}], "invalid_row"),
        ([{"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}], "invalid_row"),
        ([{"prompt": "p", "instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}], "unsuitable_problem"),
        ([{"prompt": "p"}], "missing_key"),
        ([{"prompt": "p", "answer": "a = 1\nb = 2"}], "multi_line_answer"),
        ([{"prompt": "p", "answer": "1"}, {"prompt": "q", "answer": "1", "answers": ["x\ny"]}], "multi_line_answer"),
    ],
)
def test_what_cannot_be_graded_is_refused_in_one_line(tmp_path: Path, rows: list[dict[str, Any]], code: str) -> None:
    with refused(BehaviorError, code) as caught:
        load_behavior(write(tmp_path / "rows.jsonl", *rows))
    assert str(tmp_path / "rows.jsonl") in str(caught.value)


def test_a_verifier_that_needs_an_answer_says_so(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", {"prompt": "p", "answer": "1"}, {"prompt": "q"})
    path = tmp_path / "mine.yaml"
    path.write_text("problems: rows.jsonl\nverifier: {kind: exact}\n")
    with refused(BehaviorError, "missing_key") as caught:
        load_behavior(path)
    assert "rows.jsonl:2" in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([r"\sqrt{2}", "3"], "math"),
        ([r"\frac{1}{2}", "3"], "number"),
        (["$x+1$", "y"], "math"),
        (["x^2", "2"], "math"),
        ([r"\boxed{7}", r"(1, \pi)"], "math"),
        (["Paris", "Rome"], "exact"),
        (["a_file", "another"], "exact"),
        (["costs $5", "costs $7"], "exact"),
        (["12", "1/2"], "number"),
    ],
)
def test_latex_answers_are_read_by_math(tmp_path: Path, answers: list[str], kind: str) -> None:
    rows = [{"prompt": f"q{number}", "answer": answer} for number, answer in enumerate(answers)]
    behavior = load_behavior(write(tmp_path / "rows.jsonl", *rows))
    assert (behavior.verifier.kind, behavior.verifier_origin) == (kind, VerifierOrigin.GUESSED)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{3 was wrong, so \boxed{4}", "4"),  # one that is never closed hides none behind it
        (r"\boxed{\fbox{5}}", "5"),
        (r"\fbox {a{b}c}, not \boxed{2", "a{b}c"),
        (r"$\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"Thus \boxed 125.", "125"),
        (r"\boxed{a \\{b}}", r"a \\{b}"),  # a line break before a brace escapes none
        (r"\boxed{x = \boxed{3}}", r"x = \boxed{3}"),
        (r"\boxed{1} } \boxed{2}", "2"),
        (r"a box {3}, \boxed{", None),
    ],
)
def test_boxes_are_found_by_one_reader(text: str, content: str | None) -> None:
    assert last_box(text) == content


def test_deep_boxes_end() -> None:
    assert last_box("\\boxed{" * 300 + "7" + "}" * 300) == "7"
    assert last_box("\\boxed{" * 20_000) is None
