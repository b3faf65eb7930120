"""The value of digits with separators: 1,234.5 and 1.234,5, lakhs, digits in groups."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from posttrain.diagnose.verifiers.reader.characters import DRESS, THIN

MOST_DIGITS = 300
"""Digits of a number; converting more takes quadratic time, and no answer has as many."""
Decimal = Literal["point", "comma"]

_SEPARATORS = re.compile(rf"[.,'_{THIN}]")
_GROUPED = re.compile(r"(?<![0-9.,] )(?<![0-9.,])[1-9][0-9]{0,2}(?: [0-9]{3}){1,99}(?![0-9]| [0-9])")
_NAMED = re.compile(
    rf"(?:[.,][0-9]{{1,99}})?[ {DRESS}]?(?:[€£¥₹₽₩{DRESS}]|(?!(?:or|and|und|oder|ou|et|o|y|to|bis)\b)[^\W\d_]{{2}}|[\u3040-\u9fff\uac00-\ud7af])"
)


def join_groups(text: str, *, marked: bool = False) -> str:
    """Put a thin space for the blanks between groups of three digits that can only be one number.

    Only a group begins with a zero (1 000) or stands before a noun (12 345 people); 12 345 alone may as well be two numbers.

    Args:
        text: Plain text.
        marked: Whether the text is stated as one answer, so that there is one number.
    """

    def join(match: re.Match[str]) -> str:
        sure = marked or " 0" in match[0] or _NAMED.match(text, match.end()) is not None
        return match[0].replace(" ", THIN) if sure else match[0]

    return _GROUPED.sub(join, text)


def literal_value(written: str, decimal: Decimal) -> Fraction | None:
    """Return the value of digits with separators, or None where they are no number (1.2.3).

    What can be only one number is read as that one whatever `decimal` says: 1.234.567, 1.234,5, 0,75 and 12,5. Where both readings are
    possible (1,234) `decimal` decides.

    Args:
        written: Digits 0 to 9 with single separators between them, or with a point in front.
        decimal: Which of point and comma begins the decimals.
    """
    separators = _SEPARATORS.findall(written)
    parts = _SEPARATORS.split(written)
    if sum(map(len, parts)) > MOST_DIGITS:
        return None
    if not separators:
        return Fraction(int(written))
    if not parts[0]:  # .5
        return Fraction(int(parts[1]), 10 ** len(parts[1])) if len(parts) == 2 else None
    first, last = separators[0], separators[-1]
    if len(set(separators)) == 1:
        grouped = _is_grouped(parts)
        if first in ".," and len(parts) == 2:
            begins_decimals = first == ("." if decimal == "point" else ",")
            if begins_decimals or not grouped:
                return _with_decimals(parts[:1], parts[1])
        return Fraction(int("".join(parts))) if grouped else None
    # Two kinds: digits are grouped by the first, and decimals, if there are any, follow the second.
    if last in ".," and separators.count(last) == 1 and len(set(separators)) == 2:
        return _with_decimals(parts[:-1], parts[-1]) if _is_grouped(parts[:-1]) else None
    if first in ".," and set(separators[1:]) == {THIN} and all(len(part) == 3 for part in parts[1:-1]):  # 3.141 592 6
        return _with_decimals(parts[:1], "".join(parts[1:]))
    return None


def _is_grouped(parts: list[str]) -> bool:
    """Return whether digits stand in groups of three, or in those of lakhs and crores."""
    if len(parts) == 1:
        return True
    if parts[0].startswith("0") or len(parts[-1]) != 3 or not 1 <= len(parts[0]) <= 3:
        return False
    middle = {len(part) for part in parts[1:-1]}
    return middle <= {3} or (middle == {2} and len(parts[0]) <= 2)


def _with_decimals(whole: list[str], decimals: str) -> Fraction:
    return Fraction(int("".join(whole) + decimals), 10 ** len(decimals))
