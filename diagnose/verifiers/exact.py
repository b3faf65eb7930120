"""The answer is the whole text, up to case, whitespace, typography and punctuation at the ends."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier
from posttrain.diagnose.verifiers.reader.turns import answered_before_next_question, own_turn

_WORD = re.compile(r"\w+")
_MARKS = re.compile(r"(?:[^\x00-\u02ff\w\s]|[\uff9e\uff9f]){30}")
"""Thirty characters in a row that may be combining marks. Unicode orders marks in quadratic time; a joiner after every thirty, as in its stream-safe
text format (UAX 15), bounds that."""
_RAISED = re.compile("[²³¹⁰-ⁿ]+")
_MOST_PAIRS = 8
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")
_PLACEHOLDER = re.compile(r"[\w ]*[^\W\d][\w ]*")
_TRAILING = frozenset(".!?,;:。！？，；：、．…·।۔؟،؛")
_LEADING = frozenset("¿¡,;:!?。，；：、…")
_PAIRS = {'"': '"', "'": "'", "`": "`", "*": "*", "_": "_", "$": "$", "«": "»", "»": "«", "‹": "›", "(": ")", "[": "]", "「": "」",
          "『": "』", "【": "】", "《": "》", "〈": "〉"}  # fmt: skip
_QUOTES = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u00b4\u0060\uff07", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\uff02", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    "\u2026": "...", "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", "\ufe0e": "", "\ufe0f": "",
}  # fmt: skip


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
        text = own_turn(text)
        text = answered_before_next_question(text) or text
        if lenient:
            lines = [line for line in text.splitlines() if _WORD.search(line)]
            return "\n".join(_words(line, self._options.casefold) for line in dict.fromkeys(lines[:1] + lines[-1:])) or None
        return self._normalise(text) or None

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where it equals one of the answers, or leniently where one of the lines contains one."""
        if not lenient:
            return float(any(extracted == self._normalise(answer) for answer in problem.accepted_answers))
        lines = [f" {line} " for line in extracted.split("\n")]
        words = [_words(answer, self._options.casefold) for answer in problem.accepted_answers]
        return float(any(answer and any(f" {answer} " in line for line in lines) for answer in words))

    def complaint(self, problem: Problem) -> str | None:
        """Refuse an answer that vanishes under normalisation, such as one of invisible characters alone."""
        for answer in problem.accepted_answers:
            if not self._normalise(answer):
                return f"answer: got {shorten(answer)}; nothing of it can be seen: give an answer with a visible character"
        return None

    def _normalise(self, text: str) -> str:
        """Return the text without punctuation around it; as it is where it is nothing else, since punctuation may be what is asked for."""
        found = normalise_text(text, casefold=self._options.casefold, strip_punctuation=self._options.strip_punctuation)
        return found or normalise_text(text, casefold=self._options.casefold, strip_punctuation=False)


class _Characters(dict[int, int | str | None]):
    """Map code points; those that only change how a text looks to what they stand for."""

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        mapped: int | str | None = code
        if unicodedata.category(character) == "Cf":
            mapped = None
        elif unicodedata.decomposition(character).startswith(("<wide>", "<narrow>", "<super>", "<sub>")):
            mapped = unicodedata.normalize("NFKC", character)
            mapped = _QUOTES.get(mapped, mapped)
        self[code] = mapped
        return mapped


_CHARACTERS = _Characters({ord(odd): plain for odd, plain in _QUOTES.items()})


def normalise_text(text: str, *, casefold: bool = True, strip_punctuation: bool = True) -> str:
    """Bring a text to the form in which two that mean the same are equal.

    Canonical composition (NFC), plain quotation marks and dashes, no invisible characters, single blanks. x² stays different from x2.
    """
    text = _compose(_RAISED.sub(r"^\g<0>", text).translate(_CHARACTERS))
    if casefold:
        text = _compose(text.casefold())
    text = " ".join(text.split())
    return _strip(text) if strip_punctuation else text


def _compose(text: str) -> str:
    """Return NFC, in linear time."""
    return text if text.isascii() else unicodedata.normalize("NFC", _MARKS.sub("\\g<0>\u034f", text))


def _strip(text: str) -> str:
    """Take off punctuation at the ends, and quotation marks and brackets where the partner stands at the other end."""
    start, stop = 0, len(text)
    for _ in range(_MOST_PAIRS):
        while start < stop and (text[stop - 1] in _TRAILING or text[stop - 1] == " ") and not _is_factorial(text, stop):
            stop -= 1
        while start < stop and (text[start] in _LEADING or text[start] == " " or text.startswith("..", start)):
            start += 2 if text.startswith("..", start) else 1
        # The point of .5 stays, the third one of ...5 does not.
        start += text.startswith(".", start) and text.endswith("..", 0, start)
        if not _is_pair(text, start, stop):
            break
        start, stop = start + 1, stop - 1
    return text[start:stop]


def _is_factorial(text: str, stop: int) -> bool:
    return text[stop - 1] == "!" and stop > 1 and (text[stop - 2].isdigit() or text[stop - 2] in ")!")


def _is_pair(text: str, start: int, stop: int) -> bool:
    """Return whether first and last character enclose the rest and change nothing: not in (0, 1], [0, 1) or "a" and "b"."""
    if stop - start < 3 or _PAIRS.get(text[start]) != text[stop - 1]:
        return False
    first, inner = text[start], text[start + 1 : stop - 1]
    if first == "[":
        return _PLACEHOLDER.fullmatch(inner) is not None
    if first == "(":
        depth = 0
        for character in inner:
            depth += (character == "(") - (character == ")")
            if depth < 0 or character in ",;":
                return False
        return True
    if first == text[stop - 1]:
        return first not in _APOSTROPHE.sub("", inner).strip(first)
    return first not in inner and text[stop - 1] not in inner


def _words(text: str, casefold: bool) -> str:
    return " ".join(_WORD.findall(normalise_text(text, casefold=casefold)))
