"""The answer is the letter of one of the choices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier

_BARE = re.compile(r"[\s(\[*`\"']*([A-Za-z])[\s)\]*`\"'.:]*")
_BOXED = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?\s*\(?([A-Za-z])\)?\s*\}")
_ANSWER = re.compile(
    r"\b(?:answer|choice|option)(?:[ \t]+(?:is|was|would[ \t]be|should[ \t]be))?[ \t]*[:=]?[\s*(\[\"'`]{0,6}"
    r"(?:option[ \t]+|choice[ \t]+)?[*(\[\"'`]{0,4}([A-Z])(?![A-Za-z0-9'])",
    re.IGNORECASE,
)
_FURTHER = re.compile(
    r"[\s)\]*\"'`.]{0,6}(?:,|/|;|\bor\b|\band\b|&)[\s*(\[\"'`]{0,6}(?:or[ \t]+|and[ \t]+)?[*(\[\"'`]{0,4}([A-Z])(?![A-Za-z0-9'])"
)
_MARKED = re.compile(r"\(([A-Z])\)|(?<![A-Za-z0-9'])([A-Z])[.):](?![A-Za-z0-9])|(?<![A-Za-z0-9'])\*\*([A-Z])\*\*")
_STANDING = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")


class ChoiceOptions(StrictModel):
    """Options of `choice`."""

    letters: str = Field(default="ABCDEFGHIJ", pattern=r"^[A-Z]{2,26}$")
    """The letters that can be an answer."""


class ChoiceVerifier(Verifier):
    r"""Reads a letter: the whole text, `\boxed{B}`, `the answer is B`, or the only one marked as `(B)`, `B.`, `B)` or `B:`.

    Several different letters state no answer. The lenient reading takes the last letter that stands by itself.
    """

    Options = ChoiceOptions

    def __init__(self, options: ChoiceOptions) -> None:
        self._letters = frozenset(options.letters)

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the letter; see the class."""
        strict = self._read_strictly(text)
        if not lenient or strict is not None:
            return strict
        # "A" and "I" are words, too; a reading that takes them for answers would find them everywhere.
        standing = [letter for letter in _STANDING.findall(text) if letter in self._letters and letter not in "AI"]
        marked = [letter for letter in self._marked(text) if letter in self._letters]
        return (marked or standing or [None])[-1]

    def _read_strictly(self, text: str) -> str | None:
        bare = _BARE.fullmatch(text)
        if bare:
            return self._only({bare[1].upper()})
        boxed = {letter.upper() for letter in _BOXED.findall(text)}
        if boxed:
            return self._only(boxed)
        answers = list(_ANSWER.finditer(text))
        # "the answer is a ..." states no letter; an upper-case A does.
        answers = [match for match in answers if match[1].isupper()]
        if answers:
            last = answers[-1]
            listed = _FURTHER.match(text, last.end())
            others = {match[1] for match in answers} | ({listed[1]} if listed else set())
            return self._only(others)
        return self._only(set(self._marked(text)))

    def _marked(self, text: str) -> list[str]:
        return [next(letter for letter in groups if letter) for groups in _MARKED.findall(text)]

    def _only(self, found: set[str]) -> str | None:
        known = found & self._letters
        return next(iter(known)) if len(known) == 1 else None

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where the letters are equal."""
        return float(extracted == _letter(problem.answer))

    def complaint(self, problem: Problem) -> str | None:
        """Refuse an answer that is not one of the letters."""
        if _letter(problem.answer) not in self._letters:
            allowed = f"one of the letters {''.join(sorted(self._letters))}"
            return f"answer: got {shorten(problem.answer)}; the verifier choice needs {allowed}, or other `letters`"
        return None


def _letter(answer: str) -> str | None:
    match = _BARE.fullmatch(answer)
    return match[1].upper() if match else None
