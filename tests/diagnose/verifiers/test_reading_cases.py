"""What the verifiers read in texts of many kinds: `reading_cases.jsonl` holds text, accepted answer and score, in both directions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.diagnose.types import Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers import Verifier, build_verifier
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.reader.answer_reading import ReadStatus, read_all, read_answer, read_leniently, read_number

CASES = [json.loads(line) for line in Path(__file__).with_name("reading_cases.jsonl").read_text(encoding="utf-8").splitlines()]


def build(options: dict[str, Any]) -> Verifier:
    verifier = build_verifier(
        VerifierSpec(kind=options["kind"], options={key: value for key, value in options.items() if key != "kind"})
    )
    assert isinstance(verifier, Verifier)
    return verifier


def problem_of(case: dict[str, Any]) -> Problem:
    return Problem(
        id="p",
        prompt="q",
        answer=case["answer"],
        answers=tuple(case.get("answers", ())),
        key="q",
        split=Split.EVAL,
        metadata=case.get("metadata", {}),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}: {case['text']!r}"[:90])
def test_reading(case: dict[str, Any]) -> None:
    verifier = build(case["verifier"])
    problem = problem_of(case)
    assert verifier.complaint(problem) is None
    extracted = verifier.extract(case["text"], lenient=False, payload=verifier.payload(problem))
    assert (0.0 if extracted is None else verifier.compare(extracted, problem)) == case["score"], extracted


@pytest.mark.parametrize("written", ["{}", "({})", "{}.", "**{}**", "{})", "\\boxed{{{}}}", "The answer is {}.", "Answer: {}"])
@pytest.mark.parametrize("separator", [", ", " or ", "\n", " ", "; ", " / ", " and "])
@pytest.mark.parametrize("letters", ["BA", "ABC", "DCBA"])
def test_every_list_of_options_states_none(letters: str, separator: str, written: str) -> None:
    text = separator.join(written.format(letter) for letter in letters)
    assert build({"kind": "choice"}).extract(text, lenient=False) is None


def test_what_is_left_over_is_told_apart() -> None:
    assert read_number("\\boxed{3\\sqrt{13}}").status is ReadStatus.EXPRESSION
    assert "13" in read_number("\\boxed{3\\sqrt{13}}").span
    assert read_number("\\boxed{x^2 - y}").status is ReadStatus.EXPRESSION
    assert read_number("\\boxed{}").status is ReadStatus.NOTHING
    assert read_number("12 or 15").status is ReadStatus.SEVERAL
    assert read_number("no idea").status is ReadStatus.NOTHING
    assert read_number("x = 12").status is ReadStatus.NUMBER


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 12 or 15", "15"),
        ("\\boxed{2x}", None),
        ("\\boxed{-\\frac{1}{2}}", "-1/2"),
        ("I counted twenty-one.", "21"),
        ("two hundred and five", "205"),
        ("1.5 million people, perhaps", "1500000"),
    ],
)
def test_lenient_reading(text: str, expected: str | None) -> None:
    assert read_leniently(text).canonical == expected


@pytest.mark.parametrize("case", [case for case in CASES if case["score"] == 1.0], ids=lambda case: repr(case["text"])[:60])
def test_lenient_grade_is_never_below_the_strict_one(case: dict[str, Any]) -> None:
    verifier = build(case["verifier"])
    problem = problem_of(case)
    # The grader takes the better of both; here the lenient reading must at least read something.
    assert verifier.extract(case["text"], lenient=True, payload=verifier.payload(problem)) is not None


def test_expected_answers_are_numbers_as_a_whole() -> None:
    assert read_answer("12 cm").canonical == "12"
    assert read_answer("12 apples").canonical == "12"
    assert read_answer("12 apples", units=False).value is None
    for answer in ("3 and 4", "(7,6)", "2x", "twelve", "3 Doors Down Again", "", "x = 5 or 6"):
        assert read_answer(answer).value is None, answer


def test_lists_and_products_are_read_in_order() -> None:
    assert [str(value) for value in read_all("2 × 3 × 5") or []] == ["2", "3", "5"]
    assert [str(value) for value in read_all("[10,200,3000]") or []] == ["10", "200", "3000"]
    assert read_all("3x + 2") is None
    assert read_all("none") is None


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "1,",
        "1/",
        "#",
        "answer: 1x ",
        "\\boxed{",
        "\\boxed{1x} ",
        "{",
        "½",
        "(",
        "-",
        "=1",
        "1 000 ",
        "answer for ",
        "is A or ",
        "\nQuestion: a",
        "<|abcd|>",
        "~~a",
        "0.3",
        "option aa ",
    ],
)
@pytest.mark.parametrize("kind", ["number", "choice"])
def test_reading_takes_linear_time(kind: str, piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    verifier = build({"kind": kind})
    start = time.process_time()
    verifier.extract(text, lenient=False)
    assert time.process_time() - start < 3.0  # a quarter of a second on an idle machine; quadratic time would take minutes


@pytest.mark.parametrize(
    "text", ["\u0301\u0316" * 300_000, "(" * 400_000 + ")" * 400_000, "* " * 400_000, "½" * 800_000, "." * 800_000]
)
def test_normalising_takes_linear_time(text: str) -> None:
    start = time.process_time()
    normalise_text(text)
    assert time.process_time() - start < 3.0


def documented(heading: str) -> list[tuple[str, str]]:
    page = (Path(__file__).parents[3] / "docs" / "verifiers.md").read_text(encoding="utf-8")
    section = page.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.strip("| ").rsplit(" | ", 1) for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 5
    return [(text.strip("`"), read) for text, read in rows]


DOCUMENTED = [(kind, *row) for kind in ("number", "choice") for row in documented(f"What a {kind} is")]


@pytest.mark.parametrize(("kind", "text", "read"), DOCUMENTED)
def test_the_examples_of_the_documentation(kind: str, text: str, read: str) -> None:
    assert (build({"kind": kind}).extract(text, lenient=False) or "nothing") == read
