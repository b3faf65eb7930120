"""Texts that are made to take long: each verifier reads them in linear time, or says that it does not read them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from posttrain.diagnose.types import Behavior, GradeStatus, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader

MARKS = "\u0300\u0316"  # an accent above and one below: Unicode wants them ordered
TEXTS = {
    "marks": "a" + MARKS * 50_000,
    "katakana_marks": "\uff9e\u0316" * 50_000,
    "brackets": "\\boxed{" * 10_000 + "}" * 10_000,
    "digits": "1" * 100_000,
    "invisible": "\u200b\u200d\u202e" * 30_000,
    "right_to_left": "\u202e\u0661\u05d0\u05b0" * 25_000,
    "list": "the answer is 1 or " * 5_000,
    "blanks": "answer" + " " * 100_000 + "x",
    "half_a_pair": "\ud800" * 100_000,
}
KINDS: dict[str, tuple[Mapping[str, Any], str]] = {
    "exact": ({}, "12"),
    "number": ({}, "12"),
    "choice": ({}, "A"),
    "regex": ({"pattern": "answer is (.+)"}, "12"),
}


def behavior_of(kind: str, options: Mapping[str, Any], answer: str, prompt: str = "6 + 6?") -> Behavior:
    problem = Problem(id="p", prompt=prompt, answer=answer, key="p", split=Split.EVAL)
    verifier = VerifierSpec(kind=kind, options=options)
    return Behavior(name="b", problems=(problem,), verifier=verifier, measure=MeasureSettings(epsilon=0.01))


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_are_read_in_linear_time(kind: str) -> None:
    options, answer = KINDS[kind]
    behavior = behavior_of(kind, options, answer)
    with Grader(behavior, deadline=30.0) as grader:
        grader.grade(behavior.problems[0], [answer])
        start = time.process_time()
        for name, text in TEXTS.items():
            (grade,) = grader.grade(behavior.problems[0], [text])
            assert grade.status in (GradeStatus.SCORED, GradeStatus.UNPARSED), (name, grade)
            assert grade.score == 0.0, name
        assert time.process_time() - start < 5.0, "the parent itself took long"


def test_marks_are_still_compared() -> None:
    """Thirty marks and more are normalised too; two orders of the same marks are one text, and other marks are another."""
    behavior = behavior_of("exact", {}, "e\u0301" + MARKS * 10)
    with Grader(behavior) as grader:
        same, turned, other = grader.grade(
            behavior.problems[0],
            ["\u00e9" + MARKS * 10, "e\u0301" + "\u0316\u0300" * 10, "e\u0301" + MARKS * 9],
        )
    assert (same.score, turned.score, other.score) == (1.0, 1.0, 0.0)


def test_a_prompt_of_marks_does_not_stop_the_parent() -> None:
    behavior = behavior_of("number", {}, "12", prompt="a" + MARKS * 50_000)
    start = time.process_time()
    with Grader(behavior) as grader:
        (grade,) = grader.grade(behavior.problems[0], ["12"])
    assert grade.score == 1.0
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_megabyte_is_not_read(kind: str) -> None:
    options, answer = KINDS[kind]
    behavior = behavior_of(kind, options, answer)
    with Grader(behavior) as grader:
        (grade,) = grader.grade(behavior.problems[0], [("a" + MARKS) * 400_000])
    assert grade.status is GradeStatus.UNPARSED
    assert grade.score == 0.0


def test_a_pattern_that_backtracks_without_end_is_a_missing_grade() -> None:
    behavior = behavior_of("regex", {"pattern": "(a|a)*$b()", "read": "number"}, "12")
    start = time.monotonic()
    with Grader(behavior, deadline=1.0) as grader:
        hung, right = grader.grade(behavior.problems[0], ["a" * 40, "12"])
    assert hung.status is GradeStatus.TIMEOUT
    assert hung.score is None
    assert right.status is not GradeStatus.TIMEOUT
    assert time.monotonic() - start < 60.0
