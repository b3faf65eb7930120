"""The answer is what a regular expression finds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.reader.answer_reading import read_all, read_answer
from posttrain.diagnose.verifiers.reader.literals import Decimal


class RegexOptions(StrictModel):
    """Options of `regex`."""

    pattern: str
    """Its first group is the answer. Flags stand in the pattern: `(?i)`."""
    select: Literal["only", "first", "last"] = "only"
    """Which match counts; with `only`, different captures state no answer."""
    read: Literal["text", "number", "numbers", "multiset"] = "text"
    """How a capture is compared: as a text, a number, the numbers in it in order, or these in any order."""
    decimal: Decimal = "point"
    """Whether point or comma begins the decimals where a number can be read in two ways, such as 1,234."""
    casefold: bool = True
    """Whether upper and lower case are the same, for texts."""
    lenient_pattern: str | None = None
    """Pattern of the lenient reading, of which the last match counts; without it, `pattern`."""
    write: str = "{answer}"
    """How an answer is stated, so that the self-test can feed it back: `So: {answer}`."""

    @field_validator("pattern", "lenient_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"got {shorten(pattern)}, which is no regular expression: {error}") from None
        if not compiled.groups:
            raise ValueError(f"got {shorten(pattern)}, which has no group; put the answer into parentheses, as in 'So: (.+)'")
        return pattern

    @field_validator("write")
    @classmethod
    def _names_the_answer(cls, write: str) -> str:
        if "{answer}" not in write:
            raise ValueError(f"got {write!r}; the text {{answer}} must stand in it")
        return write


class RegexVerifier(Verifier):
    """Reads the first group of a pattern. It may backtrack without end, so it runs in the child, under a deadline."""

    Options = RegexOptions

    def __init__(self, options: RegexOptions) -> None:
        self._options = options
        self._pattern = re.compile(options.pattern)
        self._lenient = re.compile(options.lenient_pattern or options.pattern)

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the capture that `select` names, in canonical form."""
        pattern = self._lenient if lenient else self._pattern
        captures = [match[1] for match in pattern.finditer(text) if match[1] is not None]
        found = [read for capture in captures if (read := self._canonical(capture)) is not None]
        if not found:
            return None
        select = "last" if lenient else self._options.select
        if select == "only":
            return found[0] if len(set(found)) == 1 else None
        return found[0 if select == "first" else -1]

    def _canonical(self, capture: str) -> str | None:
        """Return the form in which equal answers are equal texts; None where the capture cannot be read as asked."""
        if self._options.read == "text":
            return normalise_text(capture, casefold=self._options.casefold) or None
        if self._options.read == "number":
            value = read_answer(capture, decimal=self._options.decimal).value
            return None if value is None else str(value)
        values = read_all(capture, decimal=self._options.decimal)
        if values is None:
            return None
        if self._options.read == "multiset":
            values.sort()
        return json.dumps([str(value) for value in values])

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where the canonical forms are equal."""
        return float(any(extracted == self._canonical(answer) for answer in problem.accepted_answers))

    def complaint(self, problem: Problem) -> str | None:
        """Refuse an answer that cannot be read in the way of the captures."""
        for answer in problem.accepted_answers:
            if self._canonical(answer) is None:
                return f"answer: got {shorten(answer)}; it cannot be read as `read: {self._options.read}`: use `read: text`"
        return None

    def write(self, answer: str) -> str:
        """Return the answer in the wording of the option `write`."""
        return self._options.write.replace("{answer}", answer)
