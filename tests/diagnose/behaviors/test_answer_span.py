"""Where an answer stands in a text, and what may be shown before it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posttrain.diagnose.behaviors.answer_span import (
    find_answer,
    prefix_texts,
    replace_answer,
    tokens_before_answer,
    tokens_before_word,
)
from posttrain.diagnose.engines.base import EncodedPath
from posttrain.diagnose.types import Grade, GradeStatus, Problem, Reference, Split


@pytest.mark.parametrize(
    ("text", "answer", "place"),
    [
        ("so it is 12.", "12", 9),
        ("so it is 12.", " 12 ", 9),
        ("it is 112, 12x, 3.12, 12.5 and 12,000", "12", None),
        ("In Paris", "paris", 3),
        ("a train, so the answer is A", "A", 26),
        ("The answer is (B).", "B", 15),
        ("Because of Bob", "B", None),
        ("anything", "", None),
    ],
)
def test_an_answer_is_found_as_a_word_of_its_own(text: str, answer: str, place: int | None) -> None:
    assert find_answer(text, answer) == place
    assert (replace_answer(text, answer, "#") == text) == (place is None)


def test_every_place_of_an_answer_is_replaced() -> None:
    assert replace_answer("12 and 112 and 12!", "12", r"\1") == r"\1 and 112 and \1!"


def problem(answer: str) -> Problem:
    return Problem(id="p", prompt="?", answer=answer, key="p", split=Split.EVAL)


def characters(text: str) -> tuple[str, ...]:
    path = EncodedPath(token_ids=tuple(range(len(text) + 1)), token_texts=(*text, ""), token_steps=(0,) * (len(text) + 1))
    return prefix_texts(path, Reference(steps=(text,)))


def test_no_part_of_the_answer_is_shown() -> None:
    texts = characters("that is 12 apples")

    def never(one: Problem, read: Sequence[str]) -> list[Grade]:
        return [Grade(status=GradeStatus.SCORED, score=0.0) for _ in read]

    assert tokens_before_word(problem("12"), texts) == len("that is ")
    assert tokens_before_answer(problem("12"), texts, never, 1.0) == len("that is ")
    assert tokens_before_answer(problem("13"), texts, never, 1.0) == len(texts) - 2  # never the whole path


@pytest.mark.parametrize("length", [0, 200])
def test_what_the_verifier_reads_ends_the_prefix(length: int) -> None:
    """Of a long path the verifier reads some prefixes only; none is shown in which the answer may have appeared unread."""
    texts = characters("word " * length + "it is a dozen, so 12")

    def dozen(one: Problem, read: Sequence[str]) -> list[Grade]:
        return [Grade(status=GradeStatus.SCORED, score=float("dozen" in text)) for text in read]

    shown = tokens_before_answer(problem("12"), texts, dozen, 1.0)
    longest = len("word " * length + "it is a ")
    assert shown <= longest
    assert shown > longest - 2 * len(texts) / 64 - 1


def test_a_character_that_is_spread_over_tokens_is_counted_once() -> None:
    path = EncodedPath(token_ids=(1, 2, 3, 4, 5), token_texts=(" a", "☃", "☃", "b", "<end>"), token_steps=(0, 0, 0, 0, 0))
    assert prefix_texts(path, Reference(steps=("a☃b",))) == ("", " a", " a☃", " a☃", " a☃b")
