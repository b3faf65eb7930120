"""From tokens to quantities: what is one number with its sign, currency, percent and unit, and what is an expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from posttrain.diagnose.verifiers.reader.literals import MOST_DIGITS
from posttrain.diagnose.verifiers.reader.tokens import Kind, Token
from posttrain.diagnose.verifiers.reader.units import (
    CJK_KILO_UNITS,
    CJK_MULTIPLIERS,
    CURRENCIES,
    CURRENCY_LETTERS,
    HUNDRED_WORDS,
    MULTIPLIERS,
    ORDINALS,
    PER_WORDS,
    PERCENT,
    UNITS,
)
from posttrain.diagnose.verifiers.reader.words import CJK_NEGATIVES, COPULAS, NEGATIVES

_MATH = frozenset(
    {Kind.NUMBER, Kind.FRACTION, Kind.POWER, Kind.OPERATOR, Kind.SYMBOL, Kind.OPEN, Kind.CLOSE, Kind.CURRENCY, Kind.MARK}
)
_OPERANDS = frozenset({Kind.NUMBER, Kind.FRACTION, Kind.POWER, Kind.CLOSE})
_TIMES = frozenset("×·*x") | {"times", "X"}
_MOST_TOKENS = 200
"""Of a run that is a number; taking longer ones apart takes quadratic time."""
_LARGEST = 10**MOST_DIGITS
_DANGLING = frozenset("*-/+×") | {"times", "mal", "fois", "veces", "plus"}
_ONE_LETTER_WORDS = frozenset("yeouiàwzksvаивскуой")
"""One-letter words of languages that put a preposition or an "and" behind a number."""


@dataclass(frozen=True, slots=True)
class MathSpan:
    """A quantity, or an expression that is none, in a list of tokens."""

    first: int
    """Index of its first token."""
    stop: int
    """Index behind its last token."""
    value: Fraction | None
    """None for an expression."""
    percent: bool = False

    @property
    def same(self) -> tuple[Fraction | None, bool]:
        """Return what two items must share to be the same number."""
        return self.value, self.percent


def find_items(tokens: Sequence[Token], *, formula: bool) -> list[MathSpan]:
    """Return quantities and expressions, in order.

    Args:
        tokens: From `tokenise`.
        formula: Whether all of it is set as a formula: there 5m is a product and 5! a factorial, which in a sentence are a length
            and an exclamation.
    """
    items: list[MathSpan] = []
    index = 0
    while index < len(tokens):
        if _is_aside(tokens, index, items):
            index = _closing(tokens, index) + 1
            continue
        stop = _run_end(tokens, index, formula=formula)
        if stop == index:
            index += 1
            continue
        item = _read_run(tokens, index, stop, formula=formula)
        if item is not None:
            if item.value is None and _continues(tokens, index, items):
                last = items.pop()
                item = MathSpan(last.first, item.stop, None)
            items.append(item)
        index = stop
    return items


def _touches(left: Token, right: Token) -> bool:
    return left.end == right.start


def _is_aside(tokens: Sequence[Token], index: int, items: Sequence[MathSpan]) -> bool:
    """Return whether a bracket opens a remark behind a quantity or its noun: `7 (4 + 3)`."""
    if tokens[index].kind is not Kind.OPEN or tokens[index].text != "(" or not items or index == 0:
        return False
    before = tokens[index - 1]
    ended = index - items[-1].stop
    if before.kind is Kind.MARK and index > 1:
        before, ended = tokens[index - 2], ended - 1
    if ended == 0:
        return not _touches(before, tokens[index])
    return ended <= 2 and all(token.kind is Kind.WORD for token in tokens[items[-1].stop : items[-1].stop + ended])


def _closing(tokens: Sequence[Token], index: int) -> int:
    """Return the index of the bracket that closes one, or of the last token of its line."""
    depth = 0
    for place in range(index, len(tokens)):
        kind = tokens[place].kind
        depth += (kind is Kind.OPEN) - (kind is Kind.CLOSE)
        if depth == 0:
            return place
        if kind is Kind.LINE:
            return place - 1
    return len(tokens) - 1


def _continues(tokens: Sequence[Token], index: int, items: Sequence[MathSpan]) -> bool:
    """Return whether an expression goes on with the quantity before it: `5 apples + 3 apples`."""
    if not items or tokens[index].kind is not Kind.OPERATOR:
        return False
    between = tokens[items[-1].stop : index]
    return len(between) <= 4 and all(token.kind in (Kind.WORD, Kind.MARK) for token in between)


def _run_end(tokens: Sequence[Token], start: int, *, formula: bool) -> int:
    """Return where the tokens end that belong together as mathematics; `start` where a word stands there."""
    index = start
    before: Token | None = None
    gap = counted = False
    while index < len(tokens):
        token = tokens[index]
        gap = gap or (index > start and not _touches(tokens[index - 1], token))
        if token.kind is Kind.WORD:
            taken = _words_taken(tokens, index, before, glued=not gap, formula=formula)
            if not taken:
                return index
            index += taken
            before, gap = tokens[index - 1], False
            continue
        if token.kind not in _MATH:
            return index
        if before is not None and token.kind in (Kind.NUMBER, Kind.OPEN) and _ends_operand(before) and gap:
            is_prefix = before.kind is Kind.CURRENCY and not counted
            if not is_prefix and not (token.kind is Kind.NUMBER and _extends(tokens, index, before)):
                return index
        counted = counted or token.kind is Kind.NUMBER
        if token.kind is not Kind.MARK:
            before, gap = token, False
        index += 1
    return index


def _ends_operand(token: Token) -> bool:
    if token.kind is Kind.WORD:
        return (
            token.text in UNITS or token.text in CURRENCIES or token.text.lower() in PERCENT or token.text.lower() in MULTIPLIERS
        )
    if token.kind is Kind.SYMBOL:
        return token.text[-1].isdigit()
    return token.kind in _OPERANDS or token.kind is Kind.CURRENCY or token.text in ("%", "‰", "!")


def _extends(tokens: Sequence[Token], index: int, before: Token) -> bool:
    """Return whether a number behind a blank belongs to the one before: `2 3/4`."""
    number = tokens[index]
    if before.kind is not Kind.NUMBER or not before.text.isdigit():
        return False
    if index + 2 < len(tokens) and tokens[index + 1].text == "/" and tokens[index + 2].kind is Kind.NUMBER:
        top, bottom = number.value, tokens[index + 2].value
        together = _touches(number, tokens[index + 1]) and _touches(tokens[index + 1], tokens[index + 2])
        return together and top is not None and bottom is not None and 0 < top < bottom and top.denominator == 1
    return False


def _words_taken(tokens: Sequence[Token], index: int, before: Token | None, *, glued: bool, formula: bool) -> int:
    """Return how many words at `index` go on with the mathematics of which `before` is the last token so far."""
    word = tokens[index]
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    lowered = word.text.lower()
    if before is None:
        if lowered in NEGATIVES or word.text.endswith(CJK_NEGATIVES):
            return int(following is not None and following.kind in _MATH)
        is_prefix = following is not None and following.kind in (Kind.MARK, Kind.CURRENCY) and _touches(word, following)
        return int(word.text in CURRENCY_LETTERS and is_prefix and index + 2 < len(tokens))
    if before.kind in (Kind.OPERATOR, Kind.OPEN) and before.text not in ("%", "‰", "!", "/", "·"):
        # A variable behind an operator.
        return int(len(word.text) == 1 and word.text.isascii())
    if lowered in PERCENT or lowered in MULTIPLIERS or _cjk_multiplier(word.text) is not None:
        return 1
    if lowered in PER_WORDS and following is not None and following.text.lower() in HUNDRED_WORDS:
        return 2
    if not word.text[0].isascii() and word.text not in UNITS | CURRENCIES:
        return 0
    if glued or word.text in UNITS or word.text in CURRENCIES:
        return 1
    if len(word.text) > 1 or word.text in ("a", "I"):
        return 0
    spoken = following is not None and not _touches(word, following) and not formula
    if word.text in _ONE_LETTER_WORDS and spoken and following is not None:
        return int(not (following.kind in (Kind.NUMBER, Kind.WORD) or following.text == "-"))
    return 1


def _cjk_multiplier(word: str) -> int | None:
    return None if word[1:2] in CJK_KILO_UNITS else CJK_MULTIPLIERS.get(word[0])


class _Run:
    """Reads the tokens of one run from left to right."""

    def __init__(self, tokens: list[Token], *, formula: bool) -> None:
        self.tokens = tokens
        self.formula = formula
        self.place = 0
        self.percent = False

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def number(self) -> Fraction | None:
        """Read digits, a fraction, a mixed number or scientific notation; None where none of them stands here."""
        token = self.peek()
        if token is None or token.value is None or token.kind not in (Kind.NUMBER, Kind.FRACTION):
            return None
        value = token.value
        self.place += 1
        if token.kind is Kind.FRACTION:
            return value
        plain = token.text.isdigit()
        following, after, last = self.peek(), self.peek(1), self.peek(2)
        if following is None:
            return value
        if plain and following.kind is Kind.FRACTION and following.value is not None and 0 < following.value < 1:
            self.place += 1
            return value + following.value
        if plain and following.kind is Kind.NUMBER and after is not None and after.text == "/" and last is not None:
            if last.kind is Kind.NUMBER and following.value and last.value:
                self.place += 3
                return value + following.value / last.value
            return None
        if following.text == "/" and after is not None and after.kind is Kind.NUMBER and after.value is not None:
            self.place += 2
            return value / after.value if after.value else None
        return self._scientific(value)

    def _scientific(self, value: Fraction) -> Fraction | None:
        following, after, last = self.peek(), self.peek(1), self.peek(2)
        assert following is not None
        is_times = following.text in _TIMES and after is not None and after.text == "10"
        if is_times and last is not None and last.kind is Kind.POWER:
            scale = _power_of_ten(last.value)
            self.place += 3
            return None if scale is None else value * scale
        return value

    def tail(self) -> Fraction | None:
        """Read percent, currency, multiplier and unit; return the factor, or None where something else stands here."""
        factor = Fraction(1)
        after_slash = False
        while (token := self.peek()) is not None:
            self.place += 1
            lowered = token.text.lower()
            if token.text == "%" or lowered in PERCENT:
                if self.percent:
                    return None
                self.percent = True
            elif lowered in PER_WORDS and (following := self.peek()) is not None and following.text.lower() in HUNDRED_WORDS:
                self.percent = True
                self.place += 1
            elif token.text == "‰":
                factor /= 1000
            elif token.kind is Kind.CURRENCY:
                pass
            elif token.kind is Kind.WORD and lowered in MULTIPLIERS:
                factor *= MULTIPLIERS[lowered]
            elif token.kind is Kind.WORD and (multiplier := _cjk_multiplier(token.text)) is not None:
                factor *= multiplier
            elif token.kind is Kind.WORD and self._is_unit(token, after_slash=after_slash):
                after = self.peek()
                if after is not None and after.kind is Kind.POWER:
                    self.place += 1
            elif token.text in ("/", "·") and (unit := self.peek()) is not None and unit.kind is Kind.WORD:
                after_slash = True
                continue
            else:
                return None
            after_slash = False
        return factor

    def _is_unit(self, token: Token, *, after_slash: bool) -> bool:
        if token.text in CURRENCIES or (token.text in ORDINALS and self._is_glued(token)):
            return True
        if after_slash:
            return token.text in UNITS or len(token.text) > 1
        if token.text not in UNITS:
            return False
        return len(token.text) > 1 or not self.formula or not self._is_glued(token)

    def _is_glued(self, token: Token) -> bool:
        place = self.place - 2
        return place >= 0 and _touches(self.tokens[place], token)


def _power_of_ten(exponent: Fraction | None) -> Fraction | None:
    return Fraction(10) ** int(exponent) if exponent is not None and abs(exponent) < MOST_DIGITS else None


def _read_run(tokens: Sequence[Token], start: int, stop: int, *, formula: bool) -> MathSpan | None:
    """Read a run: a quantity, an expression, or nothing where it holds no number."""
    run = [token for token in tokens[start:stop] if token.kind is not Kind.MARK]
    if not any(_matters(token) for token in run):
        return None
    before = tokens[start - 1] if start else None
    expression = MathSpan(start, stop, None)
    if len(run) > _MOST_TOKENS:
        return expression
    if before is not None and before.kind is Kind.MARK and start > 1:
        before = tokens[start - 2]
    if _is_part_of_a_word(before, run):
        return expression
    run = _without_ends(run, before, formula=formula)
    sign, run = _sign(run, before)
    if sign is None:
        return expression
    reader = _Run(run, formula=formula)
    value = reader.number()
    factor = None if value is None else reader.tail()
    if value is None or factor is None:
        return expression
    value *= factor * sign
    if max(abs(value.numerator), value.denominator) >= _LARGEST:
        return expression
    return MathSpan(start, stop, value, reader.percent)


def _matters(token: Token) -> bool:
    return token.kind in (Kind.NUMBER, Kind.FRACTION) or (
        token.kind is Kind.SYMBOL and (token.text in "√π∞" or any(character.isdigit() for character in token.text))
    )


def _is_part_of_a_word(before: Token | None, run: list[Token]) -> bool:
    """Return whether a run goes on with the word before it: f(5), x^2, COVID-19."""
    if before is None or not run:
        return False
    first = run[0]
    latin = before.kind is Kind.WORD and before.text[0].isascii()
    if latin and _touches(before, first):
        return first.kind in (Kind.OPEN, Kind.POWER, Kind.OPERATOR, Kind.SYMBOL)
    if before.kind in (Kind.NUMBER, Kind.FRACTION, Kind.SYMBOL, Kind.POWER) and _touches(before, first):
        return True
    is_binary = first.kind is Kind.OPERATOR and first.text not in "%!*"
    if is_binary and len(run) > 1 and not _touches(first, run[1]) and before.kind in (Kind.WORD, Kind.CLOSE):
        # A blank on both sides: an operator, or a dash. Behind "is" it can only be a sign.
        return before.text.lower() not in COPULAS
    return is_binary and before.kind is Kind.WORD and len(before.text) == 1 and before.text not in "aI" and before.text.isascii()


def _without_ends(run: list[Token], before: Token | None, *, formula: bool) -> list[Token]:
    """Take off brackets around the whole, brackets without a partner, and operators with nothing behind them."""
    while True:
        length = len(run)
        if len(run) > 1 and run[0].kind is Kind.OPEN and run[-1].kind is Kind.CLOSE and _matching(run) == len(run) - 1:
            run = run[1:-1]
        if run and run[0].kind is Kind.OPEN and _matching(run) is None:
            run = run[1:]
        if run and run[-1].kind is Kind.CLOSE and not any(token.kind is Kind.OPEN for token in run):
            run = run[:-1]
        if run and run[0].text == "*":
            run = run[1:]
        if len(run) > 1 and run[-1].kind is Kind.OPERATOR and run[-1].text in _DANGLING:
            run = run[:-1]
        spoken = before is None or before.kind in (Kind.LINE, Kind.END) or (before.kind is Kind.WORD and len(before.text) > 1)
        if len(run) > 1 and run[-1].text == "!" and spoken and not formula:
            run = run[:-1]
        if len(run) == length:
            return run


def _matching(run: Sequence[Token]) -> int | None:
    """Return the index of the bracket that closes the first one."""
    depth = 0
    for index, token in enumerate(run):
        depth += (token.kind is Kind.OPEN) - (token.kind is Kind.CLOSE)
        if depth == 0:
            return index
    return None


def _sign(run: list[Token], before: Token | None) -> tuple[int | None, list[Token]]:
    """Read signs and currencies in front of a number: 1 or -1 and what follows; None where there are two signs."""
    sign: int | None = 1
    signs = 0
    while run:
        token = run[0]
        is_word = token.kind is Kind.WORD
        if token.text in ("-", "+") or (is_word and (token.text.lower() in NEGATIVES or token.text.endswith(CJK_NEGATIVES))):
            signs += 1
            sign = 1 if token.text == "+" else -1
        elif token.text.lower() == "plus" and token.kind is Kind.OPERATOR and before is None:
            signs += 1
        elif not (token.kind is Kind.CURRENCY or (is_word and token.text in CURRENCY_LETTERS)):
            break
        run = run[1:]
    if len(run) > 1 and run[0].kind is Kind.OPEN and _matching(run) is not None and _matching(run) == len(run) - 1:
        run = run[1:-1]
    return (sign if signs < 2 else None), run
