"""Which verifiers the self-test believes: what they accept wrongly and refuse wrongly is counted apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.diagnose.types import Behavior, MeasureSettings, Problem, Reference, Split, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.selftest import CaseCount, SelfTest, verifier_selftest
from posttrain.diagnose.verifiers.wrong_answers import wrong_answers


def problem(number: int, answer: str, prompt: str = "", *references: str) -> Problem:
    paths = tuple(Reference(steps=(text,)) for text in references)
    question = prompt or f"Question number {number}?"
    return Problem(id=f"p{number}", prompt=question, answer=answer, key=str(number), split=Split.EVAL, references=paths)


def selftest_of(kind: str, problems: Sequence[Problem], **options: Any) -> SelfTest:
    behavior = Behavior(
        name="b",
        problems=tuple(problems),
        verifier=VerifierSpec(kind=kind, options=options),
        measure=MeasureSettings(epsilon=0.006),
    )
    with Grader(behavior) as grader:
        return verifier_selftest(behavior, grader, behavior.problems)


def blocking(found: SelfTest) -> list[str]:
    return [case.name for case in found.cases if case.blocks]


def case_of(found: SelfTest, name: str) -> CaseCount:
    return next(case for case in found.cases if case.name == name)


def products(wording: str = "{a} times 7 is {b}.") -> list[Problem]:
    return [problem(a, str(7 * a), f"{a} * 7", wording.format(a=a, b=7 * a)) for a in range(3, 11)]


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("number", {}, []),
        ("number", {"tolerance": 0.5}, []),
        ("number", {"tolerance": 1e9}, ["near_miss", "other_answer"]),
        ("number", {"tolerance": 25}, ["other_answer"]),
        ("regex", {"pattern": r"(\d+)", "select": "last"}, []),
        ("regex", {"pattern": r"(\d)\d*", "select": "last", "write": "{answer}"}, ["answer", "reference"]),
        ("regex", {"pattern": r"So: (\d+)", "write": "So: {answer}"}, ["reference"]),
        ("exact", {}, ["reference"]),
    ],
)
def test_verifiers_of_products_are_believed_or_not(kind: str, options: dict[str, Any], expected: list[str]) -> None:
    assert blocking(selftest_of(kind, products(), **options)) == expected


def test_a_regex_that_takes_one_of_several_candidates_is_a_warning() -> None:
    found = selftest_of("regex", products(), pattern=r"(\d+)", select="last")
    assert case_of(found, "candidates").num_failed > 0
    assert not found.failures
    worded = [problem(i, word) for i, word in enumerate(["tac", "god", "noom", "tab", "gip"])]
    found = selftest_of("regex", worded, pattern=r"So: (\w+)", write="So: {answer}")
    assert case_of(found, "candidates").examples[0].text.startswith("So: ")
    assert [case.name for case in found.cases if case.num_failed] == ["candidates"]
    assert not found.failures


def test_one_reference_of_many_that_is_refused_is_a_warning_and_more_are_a_failure() -> None:
    many = [problem(a, str(7 * a), f"{a} * 7", "It is many." if a < 4 else f"It is {7 * a}.") for a in range(3, 33)]
    found = selftest_of("number", many)
    assert case_of(found, "reference").num_failed == 1
    assert not found.failures
    assert blocking(selftest_of("number", many[:10])) == ["reference"]


def test_a_reference_that_is_refused() -> None:
    asked = problem(1, "12", "", "3 times 4 is 12, and 5 is more.")
    found = selftest_of("number", [asked])
    assert case_of(found, "reference").num_failed == 1
    assert case_of(found, "other_answer").num_texts == 0
    assert found.failures[0].text == asked.references[0].text


def test_equivalent_answers_are_no_others_and_few_choices_are_all_tried() -> None:
    numbers = [problem(i, answer) for i, answer in enumerate(["12", "12.0", "24/2", "7"])]
    choices = [problem(i, "ABBA"[i]) for i in range(4)]
    for kind, problems, num_others in (("number", numbers, 6), ("choice", choices, 4)):
        found = selftest_of(kind, problems)
        assert not found.failures
        assert case_of(found, "other_answer").num_texts == num_others


def test_an_answer_that_looks_like_garbage_is_no_garbage() -> None:
    assert blocking(selftest_of("exact", [problem(1, "I don't know."), problem(2, "Paris")])) == []


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("12", ("13", "120", "112", "-12", "-8675309.25")),
        ("-3", ("-4", "-30", "-13", "3", "-8675309.25")),
        ("0", ("1", "10", "-8675309.25")),
        (r"\frac{3}{4}", (r"\frac{4}{4}", r"\frac{30}{4}", r"\frac{13}{4}")),
        ("$1,234.50", ("$2,234.50", "$10,234.50", "$11,234.50")),
        ("B", ("A", "C", "D")),
        ("(c)", ("(a)", "(b)", "(d)")),
        ("Yes", ("no", "Yls", "Flz", "quYesish")),
        ("", ()),
        ("!", ()),
    ],
)
def test_wrong_answers_have_the_type_of_the_right_one(answer: str, wrong: tuple[str, ...]) -> None:
    assert wrong_answers(answer)[: len(wrong)] == wrong


def test_an_accepted_answer_is_not_wrong() -> None:
    assert "13" not in wrong_answers("12", accepted=("13.0",))
