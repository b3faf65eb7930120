"""The answer is the letter of one of the choices, or the letters of several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.reader.letters import LetterReader, choices_by_letter
from posttrain.diagnose.verifiers.reader.turns import before_next_question, own_turn

_ONE = re.compile(r"[\s(\[*`\"']*([A-Za-z])(?:[\s)\]*`\"'.:]*|[)\].:]\s+\S.*)", re.DOTALL)
_SEVERAL = re.compile(r"[A-Za-z](?:[\s,;/&+]*(?:and\s+)?[A-Za-z])*")


class ChoiceOptions(StrictModel):
    """Options of `choice`."""

    letters: str = Field(default="ABCDEFGHIJ", pattern=r"^[A-Z]{2,26}$")
    """The letters that can be an answer."""
    multiple: bool = False
    """Whether an answer may be several letters, all of which must be named: `A, C`."""


class ChoiceVerifier(Verifier):
    r"""Reads the letter that a text states: the whole text, `\boxed{B}`, `the answer is B`, or the one with which a line begins (`B. Paris`).

    The last statement counts. An option that is only mentioned or ruled out, a pronoun and an article are none; several letters state no
    answer unless `multiple` is set. Where the problem's metadata names the `choices`, the words of an option stand for its letter. The
    lenient reading takes the last letter that stands by itself.
    """

    Options = ChoiceOptions

    def __init__(self, options: ChoiceOptions) -> None:
        self._letters = frozenset(options.letters)
        self._multiple = options.multiple

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the letters; see the class."""
        reader = LetterReader(self._letters, multiple=self._multiple, choices=(payload or {}).get("choices"))
        text = own_turn(text)
        first = before_next_question(text)
        found = (reader.read(first) if first is not None else None) or (reader.read_leniently if lenient else reader.read)(text)
        return "".join(sorted(found)) if found else None

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where the letters are equal."""
        return float(any(extracted == self._read_answer(problem, answer) for answer in problem.accepted_answers))

    def payload(self, problem: Problem) -> Mapping[str, Any] | None:
        """Return the options' words, where the problem has them; which one is right stays here."""
        choices = choices_by_letter(problem.metadata)
        return {"choices": choices} if choices else None

    def complaint(self, problem: Problem) -> str | None:
        """Refuse an answer that is not one of the letters."""
        for answer in problem.accepted_answers:
            letters = self._read_answer(problem, answer)
            if not letters or not set(letters) <= self._letters:
                allowed = f"one of the letters {''.join(sorted(self._letters))}"
                return f"answer: got {shorten(answer)}; the verifier choice needs {allowed}, or other `letters`"
        return None

    def _read_answer(self, problem: Problem, answer: str) -> str | None:
        """Return the letters of an expected answer, which may also be the words of an option."""
        if self._multiple and _SEVERAL.fullmatch(answer.strip()):
            return "".join(sorted(set(re.findall("[A-Z]", re.sub(r"\band\b", " ", answer).upper()))))
        match = _ONE.fullmatch(answer)
        if match:
            return match[1].upper()
        said = normalise_text(answer)
        named = [letter for letter, text in choices_by_letter(problem.metadata).items() if normalise_text(text) == said]
        return named[0] if len(named) == 1 else None
