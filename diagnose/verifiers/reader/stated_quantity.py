"""Choose among the quantities of a sentence the one that it states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from posttrain.diagnose.verifiers.reader.quantities import MathSpan
from posttrain.diagnose.verifiers.reader.tokens import Kind, Token
from posttrain.diagnose.verifiers.reader.units import MEASURES
from posttrain.diagnose.verifiers.reader.words import (
    COMPARATIVES,
    COPULAS,
    FILLERS,
    JOINING_WORDS,
    NEGATIONS,
    PREPOSITIONS,
    SUBORDINATES,
)

_ABBREVIATIONS = frozenset(
    ["approx", "ca", "no", "nr", "rs", "vs", "resp", "bzw", "etc", "env", "aprox", "mr", "mrs", "dr", "st", "fig", "eq"]
)
_DIGIT_WORDS = frozenset(
    ["decimal", "decimals", "significant", "sig", "digit", "digits", "place", "places", "figures", "dp", "sf", "d", "s"]
)
_ARITHMETIC = frozenset({Kind.NUMBER, Kind.FRACTION, Kind.OPERATOR, Kind.OPEN, Kind.CLOSE, Kind.MARK, Kind.POWER})
_BETWEEN = frozenset({Kind.SEPARATOR, Kind.MARK, Kind.OPEN, Kind.CLOSE})


@dataclass(frozen=True, slots=True)
class Chosen:
    """The quantity or expression that a sentence states."""

    item: MathSpan
    rounded: Fraction | None = None


def is_direct(tokens: Sequence[Token], item: MathSpan) -> bool:
    """Return whether an item is the first thing said: nothing but fillers, or the left side of an equation, stands before it."""
    before = [token for token in tokens[: item.first] if token.kind is not Kind.MARK]
    if before and before[-1].kind is Kind.EQUALS:
        return True
    allowed = (Kind.OPEN, Kind.CURRENCY, Kind.ABOUT, Kind.SEPARATOR, Kind.LINE, Kind.OPERATOR)
    return all(token.kind in allowed or (token.kind is Kind.WORD and _is_filler(token)) for token in before)


def _is_filler(token: Token) -> bool:
    return token.text.lower() in FILLERS or (token.text.isupper() and len(token.text) <= 3) or token.text in ("Rs", "kr")


def sentence_around(tokens: Sequence[Token], items: Sequence[MathSpan]) -> tuple[int, int]:
    """Return first and stop index of the last sentence with an item; a question only where there is no other."""
    question: tuple[int, int] | None = None
    for item in reversed(items[-8:]):
        if question is not None and question[0] <= item.first:
            continue
        first, stop = item.first, item.stop
        while first > 0 and not _ends_sentence(tokens, first - 1):
            first -= 1
        while stop < len(tokens) and not _ends_sentence(tokens, stop):
            stop += 1
        asks = stop < len(tokens) and tokens[stop].kind is Kind.END and tokens[stop].text == "?"
        if not asks:
            return first, stop
        question = question or (first, stop)
    assert question is not None
    return question


def _ends_sentence(tokens: Sequence[Token], index: int) -> bool:
    token = tokens[index]
    if token.kind is Kind.LINE:
        return True
    if token.kind is Kind.OPERATOR and token.text == "!":
        return index > 0 and tokens[index - 1].kind is Kind.WORD
    if token.kind is not Kind.END or (token.text.startswith("..") and index + 1 < len(tokens)):
        return False
    before = tokens[index - 1] if index else None
    return not (token.text == "." and before is not None and before.kind is Kind.WORD and before.text.lower() in _ABBREVIATIONS)


def choose(
    tokens: Sequence[Token], items: Sequence[MathSpan], *, direct: bool, formula: bool, within: Sequence[MathSpan] | None = None
) -> Chosen | None:
    """Return the item that a sentence states, or None where candidates are listed, or all are denied.

    Args:
        tokens: The tokens of the sentence, or of more.
        items: All items of the tokens, at least one.
        direct: Whether the first item is the answer, as behind a marker; else the last one is.
        formula: Whether the tokens are a formula, in which several values are several candidates.
        within: The items of the sentence; all of them without it.
    """
    inside = list(items if within is None else within)
    rounded = [item for item in inside if item.value is not None and _is_rounding(tokens, item)]
    if rounded and not formula:
        return Chosen(rounded[-1])
    main = _main_clause(tokens, inside)
    stated = _behind_the_last_equals(tokens, main)
    if not formula:
        stated = [item for item in stated if not _is_negated(tokens, item)]
        if not stated:
            return None
    pair = _approximation(tokens, stated)
    if pair is not None:
        return pair
    if formula and len({item.same for item in stated}) > 1:
        return None
    if (direct or formula) and _assigns_several(tokens, main):
        return None
    item = stated[0] if direct or formula else _last_stated(tokens, stated)
    place = items.index(item)
    for neighbour in (items[place - 1] if place else None, items[place + 1] if place + 1 < len(items) else None):
        if neighbour is not None and _is_listed(tokens, neighbour, item, one_line=direct):
            return None
    return Chosen(item)


def _main_clause(tokens: Sequence[Token], items: list[MathSpan]) -> list[MathSpan]:
    """Leave out what stands behind the first item in a clause of its own: `12, where x = 5`."""
    start = items[0].stop
    for index in range(start, items[-1].first):
        token = tokens[index]
        if token.kind is Kind.END and not token.text.startswith("..") and _ends_sentence(tokens, index):
            break
        # "12 is what is left, since 15 - 3 = 12": but "if x = 5 and y = 3, it is 15" begins with the clause.
        relative = token.text.lower() == "which" and tokens[index - 1].kind is not Kind.SEPARATOR  # 10 which is 12
        if token.kind is Kind.WORD and token.text.lower() in SUBORDINATES and not relative:
            kept = [item for item in items if item.stop <= index]
            if any(item.value is not None for item in kept) and _has_statement(tokens, kept[-1]):
                return kept
    return items


def _has_statement(tokens: Sequence[Token], item: MathSpan) -> bool:
    """Return whether an item stands behind an equals sign or a verb that equates, or first in its span."""
    before = [token for token in tokens[max(0, item.first - 4) : item.first] if token.kind is not Kind.MARK]
    if not before:
        return item.first <= 1
    return before[-1].kind is Kind.EQUALS or any(token.kind is Kind.WORD and token.text.lower() in COPULAS for token in before)


def _behind_the_last_equals(tokens: Sequence[Token], items: list[MathSpan]) -> list[MathSpan]:
    for place in range(len(items) - 1, 0, -1):
        between = tokens[items[place - 1].stop : items[place].first]
        if any(token.kind is Kind.EQUALS for token in between):
            right = [token for item in items[place:] for token in tokens[item.first : item.stop]]
            if (
                items[place].value is None
                and items[place - 1].value is not None
                and all(token.kind in _ARITHMETIC for token in right)
            ):
                return items[place - 1 : place]  # 18 = 9 · 2
            return items[place:]
    return items


def _assigns_several(tokens: Sequence[Token], items: Sequence[MathSpan]) -> bool:
    """Return whether values are given to two variables side by side: x = 3, y = 4."""
    for left, right in pairwise(items):
        between = [token for token in tokens[left.stop : right.first] if token.kind is not Kind.MARK]
        named = (
            len(between) >= 3 and between[-1].kind is Kind.EQUALS and between[-2].kind is Kind.WORD and len(between[-2].text) == 1
        )
        joined = all(token.kind is Kind.SEPARATOR or token.text.lower() in JOINING_WORDS for token in between[:-2])
        earlier = [token for token in tokens[max(0, left.first - 3) : left.first] if token.kind is not Kind.MARK]
        first = len(earlier) >= 2 and earlier[-1].kind is Kind.EQUALS and earlier[-2].kind is Kind.WORD
        if named and joined and first and earlier[-2].text != between[-2].text:
            return True
    return False


def _is_rounding(tokens: Sequence[Token], item: MathSpan) -> bool:
    """Return whether an item is what another one is rounded to: `which rounds up to 8`, but not `rounded to 2 decimals`."""
    before = [token.text.lower() for token in tokens[max(0, item.first - 4) : item.first] if token.kind is not Kind.MARK]
    behind = [token.text.lower() for token in tokens[item.stop : item.stop + 2] if token.kind is not Kind.MARK]
    said = before[-1:] == ["to"] and any(word in ("rounds", "rounded") for word in before[-3:-1])
    return said and not (behind and behind[0] in _DIGIT_WORDS)


def _is_percentage_of(one: MathSpan, other: MathSpan) -> bool:
    return (
        one.percent and not other.percent and one.value is not None and other.value is not None and one.value == other.value * 100
    )


def _is_negated(tokens: Sequence[Token], item: MathSpan) -> bool:
    """Return whether a text says that the value is another one: not 5, more than 5."""
    before = [token for token in tokens[max(0, item.first - 3) : item.first] if token.kind is not Kind.MARK]
    words = [token.text.lower() if token.kind is Kind.WORD else "" for token in before]
    if words[-2:-1] and words[-1] == "than" and words[-2] in COMPARATIVES:  # no more than 5 is at most 5
        return words[0] not in NEGATIONS
    return bool(words) and words[-1] in NEGATIONS


def _approximation(tokens: Sequence[Token], items: Sequence[MathSpan]) -> Chosen | None:
    """Return the exact one of two values that a text calls about equal, with its rounding; None where there are no two."""
    for left, right in pairwise(items):
        between = [token for token in tokens[left.stop : right.first] if token.kind is not Kind.MARK]
        if len(between) == 1 and between[0].kind is Kind.ABOUT:
            if left.value is None:
                return Chosen(right)
            if right.value is None or right.percent != left.percent:
                return Chosen(left)
            is_rounding = round(left.value * right.value.denominator) == right.value * right.value.denominator
            return Chosen(left, right.value if is_rounding or _is_decimal_rounding(left.value, tokens, right) else None)
    return None


def _is_decimal_rounding(exact: Fraction, tokens: Sequence[Token], item: MathSpan) -> bool:
    """Return whether a number is another one, rounded to the decimals that are written."""
    written = [token.text for token in tokens[item.first : item.stop] if token.kind is Kind.NUMBER]
    if len(written) != 1 or item.value is None:
        return False
    decimals = len(written[0].rpartition(".")[2]) if "." in written[0] else 0
    return abs(item.value - exact) <= Fraction(1, 2 * 10**decimals)


def _last_stated(tokens: Sequence[Token], items: list[MathSpan]) -> MathSpan:
    """Return the last item, unless an earlier one stands right behind a verb that equates and the later ones in an adverbial."""
    for item in items:
        behind = [token.text.lower() for token in tokens[item.stop : item.stop + 5]]
        if behind[:1] and behind[0] in COPULAS and "answer" in behind:  # 15 is the final answer to problem 3
            return item
    for item in reversed(items):
        before = [token for token in tokens[max(0, item.first - 3) : item.first] if token.kind is not Kind.MARK]
        is_adverbial = bool(before) and before[-1].kind is Kind.WORD and before[-1].text.lower() in PREPOSITIONS
        is_adverbial = is_adverbial or [token.text.lower() for token in before[-2:]] in (
            ["out", "of"],
            ["of", "the"],
        )  # 7 of the 10
        if not is_adverbial:
            return item
    return items[-1]


def _name_in_front(tokens: Sequence[Token], item: MathSpan) -> str:
    """Return the variable that an item is given to; empty where there is none."""
    before = tokens[max(0, item.first - 3) : item.first]
    is_given = len(before) > 1 and before[-1].kind is Kind.EQUALS and before[-2].kind is Kind.WORD and len(before[-2].text) == 1
    alone = (
        len(before) < 3 or before[0].kind in (Kind.LINE, Kind.SEPARATOR, Kind.END) or before[0].text.lower() in JOINING_WORDS
    )  # not of 2x
    return before[-2].text if is_given and alone else ""


def _is_listed(tokens: Sequence[Token], one: MathSpan, other: MathSpan, *, one_line: bool) -> bool:
    """Return whether nothing but the separators of a list stands between two different items."""
    if one.same == other.same or _is_percentage_of(one, other) or _is_percentage_of(other, one):
        return False
    first, second = (one, other) if one.first < other.first else (other, one)
    between = tokens[first.stop : second.first]
    both_numbers = first.value is not None and second.value is not None
    named = [_name_in_front(tokens, item) for item in (first, second)]
    if named[0] and named[0] == named[1]:  # x = 1, x = 2
        between = between[:-2]
    for token in between:
        if token.kind is Kind.LINE:
            if one_line or not both_numbers:
                return False
        elif token.kind is Kind.END:
            if not token.text.startswith(".."):
                return False
        elif token.kind is Kind.WORD:
            if token.text.lower() not in JOINING_WORDS | MEASURES:
                return False
        elif token.kind not in _BETWEEN and token.text != "*":
            return False
    return True
