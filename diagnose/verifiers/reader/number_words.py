"""Numbers in words: English ones with halves, thirds and the like, and Chinese and Japanese numerals."""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

from posttrain.diagnose.verifiers.reader.characters import DRESS

_ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SMALL = {word: value for value, word in enumerate(_ONES)} | {word: 10 * value for value, word in enumerate(_TENS, start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = rf"(?:{'|'.join([*_ONES, *_TENS, 'hundred', *_SCALES])})"
_NUMERAL = re.compile(rf"(?<![^\W_]){_WORD}(?:(?:[ -]|[ -]and[ -]){_WORD}){{0,19}}(?![^\W_])", re.IGNORECASE)
_ORDINALS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PARTS = {word: value for value, word in enumerate(_ORDINALS, start=3)} | {"half": 2, "halve": 2, "quarter": 4, "hundredth": 100}
_PART = rf"(?:(?:(?P<before>{_NUMERAL.pattern})[ ]and[ ])?(?:(?P<top>an?|{_NUMERAL.pattern})[ -])?(?P<part>{'|'.join(_PARTS)})s?(?![^\W_]))"
_CJK_DIGITS = {character: value for value, character in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
_CJK_UNITS = {"十": 10, "百": 100, "千": 1000}
_CJK_SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CJK_NUMERAL = re.compile(f"[{''.join([*_CJK_DIGITS, *_CJK_UNITS, *_CJK_SCALES])}]{{1,40}}")
_WHOLE = re.compile(
    rf"[\s*{DRESS}\"'({{\[]*(?P<sign>(?:minus|negative|负|負)\s?)?(?:{_PART}|(?P<words>{_NUMERAL.pattern})|(?P<cjk>{_CJK_NUMERAL.pattern}))"
    rf"(?P<noun>\s[^\W\d_]{{2,20}})?[\s*{DRESS}\"')}}\].!。]*",
    re.IGNORECASE,
)


def read_number_words(text: str) -> Fraction | None:
    """Return the value of a text that is one number in words and at most a noun: `forty-two`, `Twelve apples.`, `two thirds`, `一百二十三`."""
    match = _WHOLE.fullmatch(text[:400]) if len(text) <= 400 else None
    if match is None:
        return None
    value = _part(match) if match["part"] else _english(match["words"]) if match["words"] else _cjk(match["cjk"])
    return None if value is None else Fraction(-value if match["sign"] else value)


def last_number_word(text: str) -> int | None:
    """Return the value of the last number in English words, wherever it stands."""
    found = deque(_NUMERAL.finditer(text), maxlen=1)
    return _english(found[0][0]) if found else None


def _english(words: str) -> int | None:
    """Return a value, or None where the words make no number (`five six`)."""
    total, below, last = 0, 0, 10**15
    for word in re.findall(r"[a-z]+", words.lower()):
        if word == "and":
            continue
        if word in _SCALES:
            if not below or _SCALES[word] >= last:
                return None
            last = _SCALES[word]
            total, below = total + below * last, 0
        elif word == "hundred":
            if not 0 < below < 100:
                return None
            below *= 100
        else:
            value = _SMALL[word]
            room = 10 if below % 100 and below % 10 == 0 and below % 100 >= 20 else 100
            if below and (below % room or value >= room or value == 0):
                return None
            below += value
    return total + below


def _part(match: re.Match[str]) -> Fraction | None:
    """Return the value of three quarters, or of two and a half."""
    before = _english(match["before"]) if match["before"] else 0
    top = 1 if match["top"] is None or match["top"].lower() in ("a", "an") else _english(match["top"])
    return None if before is None or top is None else before + Fraction(top, _PARTS[match["part"].lower()])


def _cjk(written: str) -> int | None:
    if all(character in _CJK_DIGITS for character in written):
        return int("".join(str(_CJK_DIGITS[character]) for character in written))
    total, section, digit = 0, 0, None
    for character in written:
        if character in _CJK_DIGITS:
            digit = _CJK_DIGITS[character]
        elif character in _CJK_UNITS:
            section += (1 if digit is None or digit == 0 else digit) * _CJK_UNITS[character]
            digit = None
        else:
            total += (section + (digit or 0)) * _CJK_SCALES[character]
            section, digit = 0, None
    return total + section + (digit or 0)
