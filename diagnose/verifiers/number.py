"""The answer is a number. Values are compared as exact fractions; nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.reader.answer_reading import read_answer, read_leniently, read_number
from posttrain.diagnose.verifiers.reader.literals import MOST_DIGITS, Decimal
from posttrain.diagnose.verifiers.reader.turns import answered_before_next_question, before_explanation, own_turn

_CANONICAL = re.compile(rf"-?[0-9]{{1,{MOST_DIGITS + 1}}}(?:/[0-9]{{1,{MOST_DIGITS + 1}}})?%?")

_MOST_KNOWN = 1 << 16
"""Answers whose values are kept."""


class NumberOptions(StrictModel):
    """Options of `number`."""

    tolerance: float = Field(default=0.0, ge=0.0)
    """Largest absolute difference that counts as equal; 0 compares exactly."""
    decimal: Decimal = "point"
    """Whether point or comma begins the decimals where a number can be read in two ways, such as 1,234."""


class NumberVerifier(Verifier):
    r"""Reads the number that a text states: `\boxed{12}`, `#### 12`, `the answer is 12`, else its last number.

    All of what is stated must be one number, with sign, currency, percent or unit; an expression such as `\boxed{2x}` is none, and a list
    of candidates (`12, 15 or 18`) states no answer. docs/verifiers.md has the grammar. The lenient reading takes the last number all the
    same, and number words.
    """

    Options = NumberOptions
    reads_numbers = True

    def __init__(self, options: NumberOptions) -> None:
        self._tolerance = Fraction(options.tolerance)
        self._decimal: Decimal = options.decimal

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the number; see the class."""
        read = read_leniently if lenient else read_number
        text = before_explanation(own_turn(text))
        first = answered_before_next_question(text)
        if first is not None and (found := read(first, decimal=self._decimal).canonical) is not None:
            return found
        return read(text, decimal=self._decimal).canonical

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where the values are equal. A percentage equals both its number and its hundredth: 50% is 50 and 0.5."""
        return float(any(self._equal(extracted, answer) for answer in problem.accepted_answers))

    def _equal(self, extracted: str, answer: str) -> bool:
        expected = self._values(answer)
        assert expected is not None, answer
        for part in extracted.split(" ≈ "):
            if not _CANONICAL.fullmatch(part):  # the child's reply is no number
                continue
            got = _percent_or_value(part)
            pairs = (
                zip(got[:1], expected[:1], strict=True) if len(got) == len(expected) else [(a, b) for a in got for b in expected]
            )
            if any(abs(a - b) <= self._tolerance for a, b in pairs):
                return True
        return False

    def _values(self, answer: str) -> tuple[Fraction, ...] | None:
        return _values_of_answer(answer, self._decimal)

    def complaint(self, problem: Problem) -> str | None:
        """See the base class: only numbers can be compared."""
        for answer in problem.accepted_answers:
            if self._values(answer) is None:
                return f"answer: got {shorten(answer)}; the verifier number needs a number: use exact or regex for texts"
        return None


def parse_number(text: str) -> Fraction | None:
    """Return the value of a text that is one number and nothing else; a percent sign is left out of account."""
    return read_answer(text, units=False).value


@lru_cache(maxsize=_MOST_KNOWN)
def _values_of_answer(answer: str, decimal: Decimal) -> tuple[Fraction, ...] | None:
    """Return what an answer may stand for; None where it is no number. Kept, because an answer is compared with every sample of its problem."""
    written = read_answer(answer, decimal=decimal).canonical
    return None if written is None else _percent_or_value(written)


def _percent_or_value(canonical: str) -> tuple[Fraction, ...]:
    """Return the values that a single number may stand for: one, or for a percentage the number and its hundredth."""
    value = Fraction(canonical.removesuffix("%"))
    return (value, value / 100) if canonical.endswith("%") else (value,)
