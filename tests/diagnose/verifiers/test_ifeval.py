"""Instructions that a program can check: what follows each, and what does not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from posttrain.diagnose.types import Behavior, GradeStatus, MeasureSettings, Problem, Split, VerifierSpec
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.ifeval import IfevalOptions, IfevalVerifier
from posttrain.diagnose.verifiers.instructions import INSTRUCTIONS, count_sentences

VERIFIER = IfevalVerifier(IfevalOptions())
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    # name, arguments, a text that follows, one that does not
    ("keywords:existence", {"keywords": ["Tree", "a+b"]}, "A tree, and a+b.", "A tree, and ab."),
    ("keywords:frequency", {"keyword": "rain", "frequency": 2, "relation": "at least"}, "Rain, rain", "rain"),
    ("keywords:frequency", {"keyword": "rain", "frequency": 2, "relation": "less than"}, "rain", "rain Rain"),
    ("keywords:forbidden_words", {"forbidden_words": ["cold", "c++"]}, "A scolded cat", "It is COLD."),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "at least"}, "Even", "ever so"[2:]),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein langer deutscher Satz über das Wetter.",
        "This is English, of course.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "It is Dr. Moe. He came.",
        "It is Dr. Moe.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", "one\n***\n***\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "two words", "now three words"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        'First.\n\n"Then, it rained.',
        "Then.\n\nFirst.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [town]", "[name] of [town"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. One more.", "Bye. PS one more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S more", "Bye.\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n - two\n**bold**", "* one\n* two\n* three"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", "*one* and ** two"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<a poem>>\nwords", "<<>> words"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", "It. Say it."),
    ("startend:end_checker", {"end_phrase": "Any questions?"}, 'So. "any questions?"', "Any questions? No."),
    ("startend:quotation", {}, ' "all of it" ', '"not" all'),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"}, "One BIG day", "A BIG day"),
    ("change_case:english_capital", {}, "THE WEATHER IS NICE TODAY AND WE GO OUT.", "THE Weather is nice today."),
    (
        "change_case:english_lowercase",
        {},
        "the weather is nice today and we go out.",
        "das wetter ist heute wirklich schön und wir gehen.",
    ),
    ("punctuation:no_comma", {}, "one and two", "one, two"),
]


def problem(*instructions: tuple[str, Mapping[str, Any] | None]) -> Problem:
    metadata = {"instruction_id_list": [name for name, _ in instructions], "kwargs": [given for _, given in instructions]}
    return Problem(id="p", prompt="Write.", answer="", key="p", split=Split.EVAL, metadata=metadata)


def test_every_kind_is_tried() -> None:
    assert {name for name, *_ in CASES} == set(INSTRUCTIONS)
    assert len(INSTRUCTIONS) == 25


@pytest.mark.parametrize(("name", "arguments", "follows", "fails"), CASES)
def test_what_follows_an_instruction(name: str, arguments: dict[str, Any], follows: str, fails: str) -> None:
    one = problem((name, arguments))
    assert VERIFIER.complaint(one) is None
    assert VERIFIER.extract(follows, lenient=False, payload=VERIFIER.payload(one)) == "1"
    assert VERIFIER.extract(fails, lenient=False, payload=VERIFIER.payload(one)) == "0"


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ('He said "No." Then he left...', 2),
        ("Mr. Fox, e.g. the one of J. R. Moe, paid 3.50 dollars.", 1),
        ("# Title\n\nA line\n\n- one\n- two", 3),
        ("これは文です。もう一つ。", 2),
    ],
)
def test_sentences(text: str, num: int) -> None:
    assert count_sentences(text) == num


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("punctuation:no_coma", {}),
        ("keywords:existence", {}),
        ("keywords:existence", {"keywords": "tree"}),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}),
        ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}),
        ("startend:end_checker", None),
    ],
)
def test_instructions_without_meaning_are_refused(name: str, arguments: dict[str, Any] | None) -> None:
    assert name in str(VERIFIER.complaint(problem((name, arguments))))


def test_from_texts_to_grades() -> None:
    two = problem(
        ("punctuation:no_comma", None), ("length_constraints:number_words", {"num_words": 5.0, "relation": "less than"})
    )
    behavior = Behavior(name="i", problems=(two,), verifier=VerifierSpec(kind="ifeval"), measure=MeasureSettings(epsilon=0.1))
    with Grader(behavior, deadline=20.0) as grader:
        grades = grader.grade(two, ["one two", "one, two", "a, b, c, d, e, f", "Sure, here it is:\none two", " \n"])
    assert [one.score for one in grades] == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert [one.lenient_score for one in grades] == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert grades[-1].status is GradeStatus.UNPARSED
    assert all(one.extracted is None for one in grades)  # no answer was read


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "<<" * 100_000, "*" * 200_000, "." * 200_000, "a." * 100_000, "Section " * 30_000]
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    every = problem(*((name, given) for name, given, *_ in CASES if "language" not in name and "english" not in name))
    start = time.process_time()
    VERIFIER.extract(text, lenient=False, payload=VERIFIER.payload(every))
    assert time.process_time() - start < 2.0
