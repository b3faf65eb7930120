"""Read the number that a text states as its answer, or say why it states none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from posttrain.diagnose.verifiers.reader.characters import DRESS, plain
from posttrain.diagnose.verifiers.reader.literals import Decimal, join_groups
from posttrain.diagnose.verifiers.reader.number_words import last_number_word, read_number_words
from posttrain.diagnose.verifiers.reader.quantities import MathSpan, find_items
from posttrain.diagnose.verifiers.reader.stated_quantity import choose, is_direct, sentence_around
from posttrain.diagnose.verifiers.reader.statements import MAX_CLAUSE, Statement, StatementKind, find_statements
from posttrain.diagnose.verifiers.reader.tokens import Kind, Token, tokenise
from posttrain.diagnose.verifiers.reader.words import JOINING_WORDS


class ReadStatus(StrEnum):
    """What was found."""

    NUMBER = "number"
    EXPRESSION = "expression"
    """The answer is stated and is no plain number: for a reader that knows algebra."""
    SEVERAL = "several"
    """Candidates are listed."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """What a text states as its answer."""

    status: ReadStatus
    value: Fraction | None = None
    percent: bool = False
    rounded: Fraction | None = None
    """The same value rounded, where the text states both: 70/9 ≈ 7.78."""
    span: str = ""
    """The part of the plain text that states the answer."""

    @property
    def canonical(self) -> str | None:
        """Return the form in which equal answers are equal texts; None where there is no number."""
        if self.value is None:
            return None
        written = f"{self.value}%" if self.percent else str(self.value)
        return written if self.rounded is None else f"{written} ≈ {self.rounded}"


_NOTHING = AnswerReading(ReadStatus.NOTHING)
_MOST_STATEMENTS = 12
_WINDOWS = (4_000, 40_000)
_PERCENT_BEHIND = re.compile(
    rf"[\s{DRESS}*}}]{{0,6}}(?:%|(?:percent(?:age)?|pct|per cent|prozent|pour cent|por ciento)(?![^\W\d_]))", re.I
)
_FACTOR_BEHIND = re.compile(
    r"[ \t]?(?:\^|√|π|\\(?:log|ln|sin|cos|tan|alpha|beta|gamma|theta|phi|lambda|mu|sigma|omega)|(?<=\})[b-zB-HJ-Z](?![A-Za-z]))"
)
_FILLER = re.compile(
    rf"(?:[\s,;|/:.()\[\]{{}}\"'{DRESS}*\u2013\u2014\u2022-]|(?<![^\W\d_])(?:{'|'.join(sorted(map(re.escape, JOINING_WORDS)))}|the|final"
    r"|correct|right|my|so|also)(?![^\W\d_])|(?<![^\W\d_])[A-Za-z][ \t]?=)*",
    re.IGNORECASE,
)
_OR = re.compile(r"(?<![^\W\d_])(?:or|oder|ou|o|или|または|或)(?![^\W\d_])[^.\n0-9]{0,40}$", re.IGNORECASE)
_UNCLOSED = re.compile(r"\\boxed\s?\{(?:[^{}\n]|\{[^{}\n]{0,60}\}){0,120}$")
_LIST_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9]{1,2}(?![0-9])|[0-9]{4}|[-+.])")
_PRODUCT = re.compile(r"(?<=[0-9)])\s?[×·*x]\s?(?!10\s?\^)(?=[-+(]?[0-9.])")
_ENUMERATOR = re.compile(r"^[ \t]*(?:\(?([0-9]{1,2})[.)])[ \t]+(?=\S)", re.MULTILINE)
_BULLET = re.compile(r"^[ \t]*[-*•+\u2013][ \t]+(?=\S)", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]*|\\boxed", re.MULTILINE)


def read_number(text: str, *, decimal: Decimal = "point") -> AnswerReading:
    """Return the number that a text states as its answer.

    The last explicit statement counts: a box, a tag, `####`, or a marker such as `the answer is` with the answer right behind it. A
    text without one states its last number. Takes linear time.

    Args:
        text: What a model wrote.
        decimal: Which of point and comma begins the decimals where both are possible: 1,234.
    """
    clean = plain(text)
    statements = find_statements(clean)
    for index in range(len(statements) - 1, max(-1, len(statements) - 1 - _MOST_STATEMENTS), -1):
        statement = statements[index]
        reading = _read_statement(clean, statement, decimal)
        if reading is None or (reading.status is ReadStatus.NOTHING and not reading.span.strip()):  # nor does an empty box
            continue
        if _has_rival(clean, statements, index, reading, decimal):
            return replace(reading, status=ReadStatus.SEVERAL, value=None)
        later = _restated(clean, statements[index + 1 :], statement, decimal)
        return reading if later is None else later
    if _UNCLOSED.search(clean, max(0, len(clean) - 200)) and not any(
        one.kind is StatementKind.BOX and one.end == len(clean) for one in statements
    ):
        return _NOTHING  # cut off inside a box: what stands there may go on
    return _read_prose(clean, decimal)


def read_leniently(text: str, *, decimal: Decimal = "point") -> AnswerReading:
    """Return the last number of a text that is part of no expression, wherever it stands, else what is written in words."""
    clean = plain(text)
    for items, _ in _windows(clean, decimal):
        numbers = [item for item in items if item.value is not None]
        if numbers:
            return AnswerReading(ReadStatus.NUMBER, numbers[-1].value, numbers[-1].percent)
    strict = read_number(text, decimal=decimal)
    if strict.status is ReadStatus.NUMBER:
        return strict
    value = None if strict.status is ReadStatus.EXPRESSION else last_number_word(clean)
    return strict if value is None else AnswerReading(ReadStatus.NUMBER, Fraction(value))


def read_answer(answer: str, *, decimal: Decimal = "point", units: bool = True) -> AnswerReading:
    """Return the value of a text that is one number and nothing else, dress and unit aside.

    Args:
        answer: An expected answer, or a capture.
        decimal: See `read_number`.
        units: Whether any word may stand behind the number: 12 apples. A unit such as cm always may.
    """
    span = join_groups(plain(answer).strip(), marked=True)
    tokens = tokenise(span, decimal)
    items = find_items(tokens, formula=True)
    if not items:
        return _NOTHING
    item = items[0]
    around = [
        token
        for token in (*tokens[: item.first], *tokens[item.stop :])
        if token.kind not in (Kind.MARK, Kind.CURRENCY, Kind.LINE)
    ]
    trailing = around[-1:] if around and around[-1].kind is Kind.END and around[-1].text != "?" else []
    words = around[: len(around) - len(trailing)]
    prefix = [token for token in tokens[: item.first] if token.kind is Kind.WORD]
    noun = units and not prefix and len(words) <= 2 and all(token.kind is Kind.WORD for token in words)
    if len(items) > 1 or (words and not noun):
        return AnswerReading(ReadStatus.EXPRESSION, span=span)
    return _from_item(item, span)


def read_all(text: str, *, decimal: Decimal = "point") -> list[Fraction] | None:
    """Return all numbers of a list or a product in order; None where one is part of another expression, or there is none."""
    clean = _PRODUCT.sub(", ", _HEADING.sub(" ", plain(text)))
    if decimal == "point":
        clean = _LIST_COMMA.sub(", ", clean)
    if clean.strip()[:1] in ("[", "(") and decimal == "point":  # in brackets a comma separates
        clean = clean.replace(",", ", ")
    items = find_items(tokenise(clean, decimal), formula=False)
    values = [item.value for item in items if item.value is not None]
    return values if values and len(values) == len(items) else None


def _from_item(item: MathSpan, span: str, rounded: Fraction | None = None) -> AnswerReading:
    if item.value is None:
        return AnswerReading(ReadStatus.EXPRESSION, span=span)
    return AnswerReading(ReadStatus.NUMBER, item.value, item.percent, rounded, span)


def _read_span(span: str, decimal: Decimal, *, formula: bool, direct: bool) -> AnswerReading:
    span = join_groups(span.replace("\\boxed", " "), marked=True)
    tokens = tokenise(span, decimal)
    items = find_items(tokens, formula=formula)
    if not items:
        value = read_number_words(span)
        return (
            AnswerReading(ReadStatus.NOTHING, span=span)
            if value is None
            else AnswerReading(ReadStatus.NUMBER, Fraction(value), span=span)
        )
    chosen = choose(tokens, items, direct=direct, formula=formula)
    if chosen is None:
        return AnswerReading(ReadStatus.SEVERAL, span=span)
    return _from_item(chosen.item, span, chosen.rounded)


def _read_statement(text: str, statement: Statement, decimal: Decimal) -> AnswerReading | None:
    """Read a statement; None where it is none, such as a marker without an answer right behind it."""
    span = text[statement.begin : statement.stop]
    if statement.kind is StatementKind.BOX:
        reading = _read_span(span, decimal, formula=True, direct=False)
        if reading.status is ReadStatus.NOTHING and any(character.isalnum() for character in span):
            return replace(reading, status=ReadStatus.EXPRESSION)
        return _beside_the_box(text, statement, reading)
    if statement.kind is StatementKind.TAG:
        return _read_span(span[-MAX_CLAUSE:], decimal, formula=False, direct=False)
    if statement.kind is StatementKind.HASHES and _ENUMERATOR.match(span):
        return None
    if text[statement.begin - 1].isalpha() and span.rstrip().endswith("!"):  # "is 12!" is an exclamation
        span = span.rstrip().removesuffix("!")
    tokens = tokenise(span.replace("\\boxed", " "), decimal)
    items = find_items(tokens, formula=False)
    if not items:
        value = read_number_words(span)
        return None if value is None else AnswerReading(ReadStatus.NUMBER, Fraction(value), span=span)
    return _read_span(span, decimal, formula=False, direct=True) if is_direct(tokens, items[0]) else None


def _beside_the_box(text: str, statement: Statement, reading: AnswerReading) -> AnswerReading:
    """Take up what stands beside a box and belongs to it: a sign in front, a percent sign or a factor behind."""
    if reading.value is None:
        return reading
    before = text[max(0, statement.start - 20) : statement.start].rstrip(f" \t{DRESS}")
    if before.endswith("±"):
        return replace(reading, status=ReadStatus.EXPRESSION, value=None)
    if before.endswith("-") and not before.endswith("--"):
        operand = before[:-1].rstrip(f" \t{DRESS}")
        if operand[-1:].isdigit() or operand[-1:] in (")", "}") or re.search(r"(?:^|[^\w])[A-Za-z]$", operand):
            return replace(reading, status=ReadStatus.EXPRESSION, value=None)
        reading = replace(reading, value=-reading.value)
    if _FACTOR_BEHIND.match(text, statement.end):
        return replace(reading, status=ReadStatus.EXPRESSION, value=None)
    if not reading.percent and _PERCENT_BEHIND.match(text, statement.end):
        reading = replace(reading, percent=True)
    return reading


def _has_rival(text: str, statements: Sequence[Statement], index: int, reading: AnswerReading, decimal: Decimal) -> bool:
    """Return whether another value is offered right beside a statement: `12 or the answer is 15`, two boxes side by side."""
    statement = statements[index]
    for other in reversed(statements[max(0, index - 4) : index]):
        if other.end > statement.start:  # around it: a marker in front of a box
            continue
        rival = _read_statement(text, other, decimal)
        if rival is None or rival.status is ReadStatus.NOTHING:
            continue
        return rival.canonical != reading.canonical and _FILLER.fullmatch(text, other.end, statement.start) is not None
    before = text[max(0, statement.start - 80) : statement.start]
    joined = _OR.search(before)
    if joined is None:
        return False
    tokens = tokenise(before[: joined.start()].rpartition("\n")[2], decimal)
    items = find_items(tokens, formula=False)
    return bool(items) and items[-1].value is not None and items[-1].same != (reading.value, reading.percent)


def _restated(text: str, later: Sequence[Statement], chosen: Statement, decimal: Decimal) -> AnswerReading | None:
    """Return what a marker with a colon states behind the chosen statement in a sentence of its own, if it is the last of the text."""
    for statement in reversed(later[-_MOST_STATEMENTS:]):
        if (
            statement.kind is StatementKind.MARKER
            and statement.start >= chosen.end
            and ":" in text[statement.start : statement.begin]
        ):
            tail = text[statement.begin :]
            if find_items(tokenise(text[statement.stop : statement.stop + 4_000], decimal), formula=False):
                return None
            reading = _read_prose(tail, decimal)
            return reading if reading.status is ReadStatus.NUMBER else None
    return None


def _windows(text: str, decimal: Decimal) -> Iterator[tuple[list[MathSpan], list[Token]]]:
    """Return the items and tokens of the end of a text, then of more of it."""
    for size in _WINDOWS:
        start = 0
        if len(text) > size:
            start = max(text.find("\n", len(text) - size), text.find(" ", len(text) - size), len(text) - size)
        window = _HEADING.sub(lambda match: " " * len(match[0]), _without_list_marks(text[start:]))
        tokens = tokenise(join_groups(window), decimal)
        yield find_items(tokens, formula=False), tokens
        if start == 0:
            return


def _without_list_marks(text: str) -> str:
    """Blank the numbers and bullets of lists; one dash alone in front of a number may be its sign."""
    numbers = list(_ENUMERATOR.finditer(text))
    listed = [int(match[1]) for match in numbers]
    spans = []
    for place, match in enumerate(numbers):
        run = (place > 0 and listed[place - 1] == listed[place] - 1) or (
            place + 1 < len(listed) and listed[place + 1] == listed[place] + 1
        )
        if run or text[match.end()].isdigit() or text[match.end()] in "-+.":
            spans.append(match.span())
    bullets = list(_BULLET.finditer(text))
    spans += [match.span() for match in bullets if len(bullets) > 1 or "-" not in match[0]]
    pieces, last = [], 0
    for start, stop in sorted(spans):
        pieces += [text[last:start], " " * (stop - start)]
        last = stop
    return "".join([*pieces, text[last:]])


def _read_prose(text: str, decimal: Decimal) -> AnswerReading:
    """Read the last sentence that holds a number."""
    for items, tokens in _windows(text, decimal):
        if not items:
            continue
        first, stop = sentence_around(tokens, items)
        span = " ".join(token.text for token in tokens[first:stop])
        inside = [item for item in items if first <= item.first < stop]
        chosen = choose(tokens, items, direct=False, formula=False, within=inside)
        if chosen is None:
            return AnswerReading(ReadStatus.SEVERAL, span=span)
        return _from_item(chosen.item, span, chosen.rounded)
    value = read_number_words(text) if len(text) < MAX_CLAUSE else None
    return _NOTHING if value is None else AnswerReading(ReadStatus.NUMBER, Fraction(value))
