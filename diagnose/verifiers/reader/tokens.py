r"""Cut a plain text into numbers, words, operators and marks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum, auto
from fractions import Fraction
from typing import NamedTuple

from posttrain.diagnose.verifiers.reader.characters import DRESS, THIN, VULGAR
from posttrain.diagnose.verifiers.reader.literals import Decimal, literal_value
from posttrain.diagnose.verifiers.reader.words import FUNCTION_WORDS, OPERATOR_WORDS


class Kind(Enum):
    """What a token is."""

    NUMBER = auto()
    FRACTION = auto()
    r"""`\frac{1}{2}` or ½."""
    POWER = auto()
    """`^3`; its value is the exponent where that is a whole number."""
    OPERATOR = auto()
    SYMBOL = auto()
    """Something that makes an expression of the number beside it: a root, pi, a command, digits that are no number."""
    OPEN = auto()
    CLOSE = auto()
    CURRENCY = auto()
    WORD = auto()
    SEPARATOR = auto()
    EQUALS = auto()
    ABOUT = auto()
    END = auto()
    """The end of a sentence."""
    LINE = auto()
    MARK = auto()
    """A dollar, a quotation mark, a brace: nothing that changes a value."""


class Token(NamedTuple):
    """A part of a text."""

    kind: Kind
    text: str
    start: int
    end: int
    value: Fraction | None = None


_LITERAL = rf"[0-9]{{1,300}}(?:[.,'_{THIN}][0-9]{{1,300}}){{0,99}}"
_SIGNED = rf"[-+]?\s?(?:{_LITERAL}|\.[0-9]{{1,99}})"
_LATIN = r"A-Za-z\u00aa\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03bf\u03c1-\u03ff\u0400-\u052f"
_TOKEN = re.compile(
    rf"""
    (?P<blank>[ \t{THIN}]+)
  | (?P<line>\n)
  | (?P<frac>\\frac\s?(?:\{{\s?(?P<top>{_SIGNED})\s?\}}|(?P<top1>[0-9]))\s?(?:\{{\s?(?P<bottom>{_SIGNED})\s?\}}|(?P<bottom1>[0-9])))
  | (?P<over>\{{\s?(?P<top2>{_SIGNED})\s?\\over\s?(?P<bottom2>{_SIGNED})\s?\}})
  | {VULGAR}(?P<vulgar>[0-9]{{1,9}}/[0-9]{{1,9}})
  | (?P<number>(?:{_LITERAL}|(?<![0-9.])\.[0-9]{{1,300}})(?P<exponent>[eE][-+]?[0-9]{{1,3}}(?![0-9A-Za-z]))?)
  | (?P<power>\^\s?(?:\{{[^{{}}\n]{{0,40}}\}}|\([^()\n]{{0,40}}\)|[-+]?[0-9]{{1,9}}|[A-Za-z]))
  | (?P<sub>(?<=\S)_\s?(?:\{{[^{{}}\n]{{0,40}}\}}|\w))
  | (?P<word>[{_LATIN}](?:[{_LATIN}0-9_]|['-](?=[{_LATIN}])){{0,99}})
  | (?P<command>\\[A-Za-z]+)
  | (?P<end>\.{{2,}}|[.?](?![0-9]))
  | (?P<equals>:=|={{1,3}}|⇒|≡)
  | (?P<about>≈|~)
  | (?P<operator>[-+*/×÷·±∓<>≤≥≠!%‰^])
  | (?P<bar>\|(?=[-+0-9A-Za-z\\])|(?<=[0-9A-Za-z])\||(?<=[0-9]):(?=[0-9]))
  | (?P<symbol>[√π∞∑∏∫∂&#@\\])
  | (?P<open>[(\[\u27e8\u3008])
  | (?P<close>[)\]\u27e9\u3009])
  | (?P<separator>[,;:|\u2013\u2014\u2022])
  | (?P<script>[^\W\d_]+)
  | (?P<mark>[{{}}"'{DRESS}«»\u2039\u203a_])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = {
    "line": Kind.LINE, "sub": Kind.SYMBOL, "word": Kind.WORD, "command": Kind.SYMBOL, "end": Kind.END, "equals": Kind.EQUALS,
    "about": Kind.ABOUT, "operator": Kind.OPERATOR, "symbol": Kind.SYMBOL, "bar": Kind.SYMBOL, "open": Kind.OPEN, "close": Kind.CLOSE,
    "separator": Kind.SEPARATOR, "script": Kind.WORD, "mark": Kind.MARK,
}  # fmt: skip
_EXPONENT = re.compile(r"\^[\s{(]{0,3}([-+]?)\s?([0-9]{1,3})[\s)}]{0,3}")


def tokenise(text: str, decimal: Decimal) -> list[Token]:
    """Cut a text into tokens; blanks are left out and show in the positions."""
    return list(_tokens(text, decimal))


def _tokens(text: str, decimal: Decimal) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        name, start, end = match.lastgroup or "", match.start(), match.end()
        written = match[0]
        if name == "blank":
            continue
        if name in ("top1", "bottom1", "frac", "over", "top2", "bottom2", "top", "bottom", "vulgar"):
            value = _fraction(match, decimal)
            yield Token(Kind.SYMBOL if value is None else Kind.FRACTION, written, start, end, value)
        elif name in ("number", "exponent"):
            yield from _number(match, decimal)
        elif name == "power":
            exponent = _EXPONENT.fullmatch(written)
            value = Fraction(int(exponent[1] + exponent[2])) if exponent else None
            yield Token(Kind.POWER, written, start, end, value)
        elif name == "word":
            yield _word(written, start, end)
        elif name == "other":
            yield Token(_other(written), written, start, end)
        else:
            yield Token(_KINDS[name], written, start, end)


def _word(written: str, start: int, end: int) -> Token:
    lowered = written.lower()
    if lowered in OPERATOR_WORDS:
        return Token(Kind.OPERATOR, lowered, start, end)
    return Token(Kind.SYMBOL if lowered in FUNCTION_WORDS else Kind.WORD, written, start, end)


def _number(match: re.Match[str], decimal: Decimal) -> Iterator[Token]:
    written, start = match["number"], match.start()
    digits = written[: len(written) - len(match["exponent"] or "")]
    value = literal_value(digits, decimal)
    enclosed = match.string[max(0, start - 2) : start].rstrip("-")[-1:] in ("(", "[") and match.string[
        match.end() : match.end() + 1
    ] in (
        ")",
        "]",
    )
    if value is not None and enclosed and "," in digits and len(digits.rpartition(",")[2]) != 3:  # (7,6) is a pair
        value = None
    if value is None and set(digits) <= set("0123456789,") and not match["exponent"]:  # 12,15,18 is a list
        for part in re.finditer("[0-9]+|,", digits):
            kind = Kind.SEPARATOR if part[0] == "," else Kind.NUMBER
            number = None if part[0] == "," else literal_value(part[0], decimal)
            if kind is Kind.NUMBER and number is None:
                kind = Kind.SYMBOL
            yield Token(kind, part[0], start + part.start(), start + part.end(), number)
        return
    if value is not None and match["exponent"]:
        value *= Fraction(10) ** int(match["exponent"][1:])
    yield Token(Kind.SYMBOL if value is None else Kind.NUMBER, written, start, match.end(), value)


def _fraction(match: re.Match[str], decimal: Decimal) -> Fraction | None:
    if match["vulgar"]:
        top, bottom = match["vulgar"].split("/")
        return Fraction(int(top), int(bottom)) if int(bottom) else None
    values = []
    for written in (match["top"] or match["top1"] or match["top2"], match["bottom"] or match["bottom1"] or match["bottom2"]):
        value = literal_value(written.lstrip("+- "), decimal)
        if value is None:
            return None
        values.append(-value if written.startswith("-") else value)
    return values[0] / values[1] if values[1] else None


def _other(character: str) -> Kind:
    """Return the kind of a character that stands in no list, by its Unicode category."""
    category = unicodedata.category(character)
    if category == "Sc":
        return Kind.CURRENCY
    if category[0] in "LM":
        return Kind.WORD
    return Kind.SYMBOL if category in ("Sm", "No", "Nl") else Kind.MARK
