"""Answers that are wrong for certain and look like the right one: what a verifier must refuse, whatever it reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.number import parse_number

_DIGITS = re.compile(r"[0-9]{1,300}")
_SIGN = re.compile(r"^\s*[-−]\s*")
_LETTER = re.compile(r"\(?[A-Za-z]\)?\.?")
_OPPOSITES = {"yes": "no", "true": "false", "right": "wrong", "correct": "incorrect", "positive": "negative", "valid": "invalid"}
_OPPOSITE = _OPPOSITES | {no: yes for yes, no in _OPPOSITES.items()}
_NUMBER_OF_NO_PROBLEM = "-8675309.25"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SHIFTED = str.maketrans(
    _ALPHABET + _ALPHABET.upper(), _ALPHABET[7:] + _ALPHABET[:7] + _ALPHABET[7:].upper() + _ALPHABET[:7].upper()
)


def wrong_answers(answer: str, *, accepted: Sequence[str] = (), letters: str = "ABCDEFGH") -> tuple[str, ...]:
    """Return near misses of an answer, and one answer of its type that is far off.

    Of a number (also one that stands in an expression, with a currency or a unit): one more, one digit more behind or before it, the other sign. Of a
    letter: other letters. Of a text: its opposite (`yes`, `no`), one letter changed, each letter changed, and the text as a part of a longer word.

    Args:
        answer: The right answer.
        accepted: Further answers that are right as well.
        letters: What else a letter could be.
    """
    right = (answer, *accepted)
    found: list[str] = []
    for text in _candidates(answer.strip(), letters):
        if text not in found and not any(same_answer(text, one) for one in right):
            found.append(text)
    return tuple(found)


def same_answer(first: str, second: str) -> bool:
    """Return whether two answers are the same number, or the same text up to case, blanks and punctuation at the ends."""
    a, b = parse_number(first), parse_number(second)
    if a is not None and b is not None:
        return a == b
    return normalise_text(first) == normalise_text(second)


def _candidates(answer: str, letters: str) -> Iterator[str]:
    if not answer:
        return
    if _LETTER.fullmatch(answer):
        own = next(character for character in answer if character.isalpha())
        others = [letter for letter in letters if letter != own.upper()]
        yield from (answer.replace(own, other if own.isupper() else other.lower()) for other in others[:3])
        return
    if (digits := _DIGITS.search(answer)) is not None:
        yield from _numbers(answer, digits)
        return
    if (opposite := _OPPOSITE.get(normalise_text(answer))) is not None:
        yield opposite
    places = [place for place, character in enumerate(answer) if character.translate(_SHIFTED) != character]
    if places:
        middle = places[len(places) // 2]
        yield answer[:middle] + answer[middle].translate(_SHIFTED) + answer[middle + 1 :]
        yield answer.translate(_SHIFTED)
    if answer[0].isalpha() and answer[-1].isalpha():
        yield f"qu{answer}ish"


def _numbers(answer: str, digits: re.Match[str]) -> Iterator[str]:
    """Return other numbers in the same dress; where the answer is nothing but a number, those of other sign and size too."""
    before, number, after = answer[: digits.start()], digits[0], answer[digits.end() :]
    for other in (str(int(number) + 1), f"{number}0" if int(number) else "10", f"1{number}"):
        yield f"{before}{other}{after}"
    if parse_number(answer) is not None:
        yield _SIGN.sub("", answer) if _SIGN.match(answer) else f"-{answer}"
        yield _NUMBER_OF_NO_PROBLEM
