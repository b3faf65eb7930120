"""The answer is a number. Values are compared as exact fractions; nothing is ever evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel, shorten
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import Verifier

# Bounded, because digits of unbounded number take quadratic time to convert. Anything longer is not a number here.
_MOST_DIGITS = 300
_DIGITS = rf"[0-9]{{1,{_MOST_DIGITS}}}"
_PLAIN = rf"(?:[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,99}}(?![0-9])|{_DIGITS})(?:\.{_DIGITS})?"
_TIMES = r"(?:[*×·]|\\times|\\cdot)"
_TOKEN = re.compile(
    rf"""
    (?<![A-Za-z_0-9])(?<![0-9]\.)              # not inside a word or another number
    (?<!\^)(?<!\^[-+{{(\s])(?<!\^[{{(][-+])     # nor an exponent: 25 cm^2 is 25
    (?P<sign>(?<![)\]%])[-+])?                 # after a closing bracket a minus is an operator
    (?:
        (?<!/)(?P<top>{_DIGITS})/(?P<bottom>{_DIGITS})(?!\s?/)(?![0-9])
      | (?P<value>{_PLAIN} | (?<!\.)\.{_DIGITS})
        (?:(?P<exponent>[eE][-+]?[0-9]{{1,3}}(?![0-9A-Za-z])) | (?![eE][-+]?[0-9]))
    )
    (?!\.?[0-9])                               # 1.2.3 is no number
    (?!\s?\^)(?!\s?{_TIMES}\s?[0-9]{{1,9}}\s?\^)   # 10^3 is not 10, nor 2 * 2^3 two
    (?P<percent>\s?%)?
    """,
    re.VERBOSE,
)
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_HASHES = re.compile(r"####[ \t]*")
_ANSWER = re.compile(
    r"\banswer(?:[ \t]+(?:is|was|equals|should[ \t]be|would[ \t]be|must[ \t]be))?[ \t]*[:=]?\s{0,4}(?:x[ \t]*=[ \t]*)?[(\[{]?",
    re.IGNORECASE,
)
_SEPARATOR = r"[\s,;|/:()\[\]{}\"'–—•-]|\b(?:or|and|either|versus|vs|maybe|perhaps|possibly)\b|\*(?=\s)|\.{2,3}"
_LIST_GAP = re.compile(rf"(?:{_SEPARATOR})*", re.IGNORECASE)
_OR = re.compile(r"[^.\n]{0,40}\bor\b[^.\n]{0,40}", re.IGNORECASE)
_ENUMERATOR = re.compile(r"^[ \t]*[0-9]{1,2}[.)][ \t]+(?=[-+]?\.?[0-9])", re.MULTILINE)

_FULL_WIDTH = {ord("０") + digit: str(digit) for digit in range(10)}
_CHARACTERS = _FULL_WIDTH | {ord(odd): plain for odd, plain in zip("−－⁄％\u00a0\u202f", "--/%  ", strict=True)}
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_SCIENTIFIC = re.compile(rf"(?<=[0-9])\s?{_TIMES}\s?10\s?\^\s?(?:\{{([-+]?[0-9]{{1,3}})\}}|([-+]?[0-9]{{1,3}}))(?![0-9])")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*([0-9]{1,300})\s*\}\s*\{\s*([0-9]{1,300})\s*\}")
_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_SMALL = {word: value for value, word in enumerate(("zero", *_ONES, *_TEENS))}
_TENS = {
    word: 10 * value
    for value, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2)
}
_WORD = re.compile(rf"\b(?:({'|'.join(_TENS)})(?:[ -]({'|'.join(_ONES)}))?|({'|'.join(_SMALL)}))\b", re.IGNORECASE)


class NumberOptions(StrictModel):
    """Options of `number`."""

    tolerance: float = Field(default=0.0, ge=0.0)
    """Largest absolute difference that counts as equal; 0 compares exactly."""


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    end: int
    value: Fraction
    percent: bool

    @property
    def canonical(self) -> str:
        return f"{self.value}%" if self.percent else str(self.value)


class NumberVerifier(Verifier):
    r"""Reads a marked answer (`\boxed{12}`, `#### 12`, `the answer is 12`), else the last number of the text.

    Read are signs, decimals, thousands separators, exponents (1e3, 2 × 10^3), fractions such as 3/4 and percentages. Other powers are not computed:
    10^3 states no number. A bare list of candidates
    (`12, 15 or 18`) states no answer, in whichever order. The lenient reading takes the last number all the same, and number
    words up to ninety-nine where there are no digits.
    """

    Options = NumberOptions

    def __init__(self, options: NumberOptions) -> None:
        self._tolerance = Fraction(options.tolerance)

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the number; see the class."""
        clean = _clean(text)
        if lenient:
            tokens = _tokens(clean)
            return tokens[-1].canonical if tokens else _number_word(clean)
        return _read_strictly(clean)

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return 1 where the values are equal. A percentage equals both its number and its hundredth: 50% is 50 and 0.5."""
        got, expected = _values(extracted), _values(problem.answer)
        assert expected is not None, problem.answer
        if got is None:
            return 0.0
        if len(got) == len(expected):
            got, expected = got[:1], expected[:1]
        return float(any(abs(a - b) <= self._tolerance for a in got for b in expected))

    def complaint(self, problem: Problem) -> str | None:
        """See the base class: only numbers can be compared."""
        if parse_number(problem.answer) is None:
            return f"answer: got {shorten(problem.answer)}; the verifier number needs a number: use exact or regex for texts"
        return None


def parse_number(text: str) -> Fraction | None:
    """Return the value of a text that is one number and nothing else; a percent sign is left out of account."""
    values = _values(text)
    return None if values is None else values[0]


def _values(text: str) -> tuple[Fraction, ...] | None:
    """Return the values that a single number may stand for: one, or for a percentage the number and its hundredth."""
    clean = _clean(text).strip()
    match = _TOKEN.fullmatch(clean)
    token = _token(match) if match else None
    if token is None:
        return None
    return (token.value, token.value / 100) if token.percent else (token.value,)


def _clean(text: str) -> str:
    """Take off what dresses a number up: markdown, LaTeX, currency, typographic characters."""
    text = text.translate(_CHARACTERS)
    for vulgar, plain in _VULGAR.items():
        text = text.replace(vulgar, f" {plain}")
    text = _SCIENTIFIC.sub(r"e\1\2", text)
    text = _FRAC.sub(r" \1/\2", text).replace("{,}", ",").replace("\\%", "%")
    for mark in ("\\$", "\\(", "\\)", "\\[", "\\]", "\\,", "\\!", "$", "€", "£", "`"):
        text = text.replace(mark, "")
    # A blank and not nothing: 2**3 must not become 23.
    return text.replace("**", " ").replace("__", " ")


def _token(match: re.Match[str]) -> _Token | None:
    if match["top"] is not None:
        if int(match["bottom"]) == 0:
            return None
        value = Fraction(int(match["top"]), int(match["bottom"]))
    else:
        value = Fraction(match["value"].replace(",", "") + (match["exponent"] or ""))
        if max(abs(value.numerator), value.denominator) >= 10**_MOST_DIGITS:
            return None
    return _Token(match.start(), match.end(), -value if match["sign"] == "-" else value, match["percent"] is not None)


def _tokens(text: str) -> list[_Token]:
    return [token for match in _TOKEN.finditer(text) if (token := _token(match)) is not None]


def _read_strictly(text: str) -> str | None:
    boxes = _BOXED.findall(text)
    if boxes:
        boxed = {tuple(token.canonical for token in _tokens(box)) for box in boxes}
        return _only({value for values in boxed for value in values}) if all(boxed) else None
    text = _ENUMERATOR.sub(lambda match: " " * len(match[0]), text)
    tokens = _tokens(text)
    starts = {token.start: index for index, token in enumerate(tokens)}
    hashed = [starts[match.end()] for match in _HASHES.finditer(text) if match.end() in starts]
    if hashed:
        marked = {tokens[index].canonical for index in hashed}
        return None if _is_listed(text, tokens, hashed[-1]) else _only(marked)
    answers = [starts[match.end()] for match in _ANSWER.finditer(text) if match.end() in starts]
    if answers:
        return None if _is_listed(text, tokens, answers[-1]) else tokens[answers[-1]].canonical
    if not tokens or (len(tokens) > 1 and _joined(text, tokens[-2], tokens[-1], _LIST_GAP)):
        return None
    return tokens[-1].canonical


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _is_listed(text: str, tokens: list[_Token], index: int) -> bool:
    """Return whether a marked number is offered beside another one: `the answer is 12 or 15`, `12 or the answer is 15`."""
    before = index > 0 and _joined(text, tokens[index - 1], tokens[index], _OR)
    if before or index + 1 == len(tokens):
        return before
    following = tokens[index + 1]
    # What stands on the next line is something new.
    same_line = "\n" not in text[tokens[index].end : following.start]
    return same_line and _joined(text, tokens[index], following, _LIST_GAP)


def _joined(text: str, first: _Token, second: _Token, gap: re.Pattern[str]) -> bool:
    """Return whether two different numbers have nothing but a list's separators between them."""
    return first.canonical != second.canonical and gap.fullmatch(text, first.end, second.start) is not None


def _number_word(text: str) -> str | None:
    words = _WORD.findall(text)
    if not words:
        return None
    tens, ones, small = (word.lower() for word in words[-1])
    return str(_SMALL[small] if small else _TENS[tens] + (_SMALL[ones] if ones else 0))
