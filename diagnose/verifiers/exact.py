"""The answer is the whole text, up to case, whitespace and punctuation at the ends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier

_WORD = re.compile(r"\w+")
_MARKS = re.compile(r"(?:[^\x00-\u02ff\w\s]|[\uff9e\uff9f]){30}")
"""Thirty characters in a row that may be combining marks. Unicode orders marks in quadratic time; a joiner after every thirty, as in its stream-safe
text format (UAX 15), bounds that."""
_ENDS = " \t\n\"'`*.!?,;:()[]"
_RAISED = re.compile("[²³¹⁰-ⁿ]+")
"""Superscripts; x² is not x2."""


class ExactOptions(StrictModel):
    """Options of `exact`."""

    casefold: bool = True
    """Whether upper and lower case are the same."""
    strip_punctuation: bool = True
    """Whether punctuation around the text is left out of account."""


class ExactVerifier(Verifier):
    """Compares the whole text. The lenient reading looks for the answer's words, in order, in the first and the last line."""

    Options = ExactOptions

    def __init__(self, options: ExactOptions) -> None:
        self._options = options

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Return the normalised text, or its first and last line; None where nothing is left."""
        if lenient:
            lines = [line for line in text.splitlines() if _WORD.search(line)]
            return "\n".join(_words(line, self._options.casefold) for line in dict.fromkeys(lines[:1] + lines[-1:])) or None
        return self._normalise(text) or None

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where they are equal, or leniently where one of the lines contains the answer."""
        if lenient:
            answer = _words(problem.answer, self._options.casefold)
            return float(bool(answer) and any(f" {answer} " in f" {line} " for line in extracted.split("\n")))
        return float(extracted == self._normalise(problem.answer))

    def complaint(self, problem: Problem) -> str | None:
        """Refuse an answer that vanishes under normalisation."""
        if not self._normalise(problem.answer):
            return f"answer: got {shorten(problem.answer)}; it is only punctuation: set strip_punctuation: false"
        return None

    def _normalise(self, text: str) -> str:
        return normalise_text(text, casefold=self._options.casefold, strip_punctuation=self._options.strip_punctuation)


def normalise_text(text: str, *, casefold: bool = True, strip_punctuation: bool = True) -> str:
    """Bring a text to the form in which two that mean the same are equal."""
    text = _RAISED.sub(r"^\g<0>", text)
    text = unicodedata.normalize("NFKC", _MARKS.sub("\\g<0>\u034f", text))
    if casefold:
        text = text.casefold()
    text = " ".join(text.split())
    return _without_ends(text) if strip_punctuation else text


def _without_ends(text: str) -> str:
    """Take off the punctuation around a text, but not the point of a number such as .5."""
    inner = text.lstrip(_ENDS)
    before = text.removesuffix(inner)
    if inner[:1].isdigit() and before.endswith(".") and not before.endswith(".."):
        inner = f".{inner}"
    return inner.rstrip(_ENDS)


def _words(text: str, casefold: bool) -> str:
    return " ".join(_WORD.findall(normalise_text(text, casefold=casefold)))
