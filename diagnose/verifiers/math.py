r"""The answer is a mathematical expression: LaTeX or plain, compared by value with math-verify and sympy.

    verifier: {kind: math}

The part of a text that states the answer is found as for numbers: the last box, tag, `####` or marker such as `the answer is`; else the
formula with which the text ends, else its last number. All of that part is parsed. Reading and comparing both need sympy on what a model
wrote, which has no bound in time, so both happen in the child process under its deadline, and the child sees the expected answer:
nothing that a model wrote is executed. What takes too long is missing, not wrong; what cannot be parsed is unparsed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import CannotGrade, Verifier
from posttrain.diagnose.verifiers.reader.answer_reading import AnswerReading, ReadStatus, read_answer, read_number
from posttrain.diagnose.verifiers.reader.latex import as_expression, as_intervals, as_latex
from posttrain.diagnose.verifiers.reader.statements import Statement, StatementKind, find_statements
from posttrain.diagnose.verifiers.reader.turns import answered_before_next_question, before_explanation, own_turn

_MOST_CHARACTERS = 1_000
"""Of an expression; a longer one is none."""
_TAIL = 20_000
"""Characters at the end of a text in which the answer is looked for."""
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\d])\$([^$\n]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_JOIN = re.compile(r"(?:[\s,;*$]|\\[()\[\]]|\\q?quad|\\text\{\s*(?:or|and)\s*\}|\b(?:or|and)\b){0,20}", re.IGNORECASE)
_COPULA = re.compile(r"\b(?:is|are|equals)\b:?", re.IGNORECASE)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textnormal|textit|mathit|mathrm|operatorname|mbox|textbf|mathbf|begin|end|left|right)\*?\s*\{[^{}]*\}"
)
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "sinh",
        "cosh",
        "tanh",
        "arcsin",
        "arccos",
        "arctan",
        "exp",
        "log",
        "ln",
        "sqrt",
        "abs",
        "max",
        "min",
        "pmod",
        "mod",
        "det",
        "gcd",
        "lcm",
        "cup",
        "cap",
        "infty",
        "inf",
        "pi",
        "frac",
    ]
)
_ENDS = re.compile(r"^[\s*_:`]+|[\s*_`]*[.。!]?[\s*_`]*$")
_LITERAL = re.compile(r"[-+]?[\d.,\s]+%?|[-+]?\\?[dt]?frac\{?-?\d+\}?\{?\d+\}?|[-+]?\d+/\d+")
_ONLY_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]{0,60}")
_TUPLE = re.compile(r"[(\[][^()\[\]\n]{0,80},[^()\[\]\n]{0,80}[)\]]$")
_LABEL = re.compile(r"\s*\\(?:text|textbf|mathrm)\s*\{[^{}]{1,60}[:=]\s*\}")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,(?:\d{1,2}|\d{4,})")
_INDEXED = re.compile(r"(?<![\\A-Za-z])([A-Za-z])_\{?\d\}?\s*=")
_SEVERAL = re.compile(r"[,;]|\b(?:or|and)\b|\\(?:lor|vee|land|wedge)(?![A-Za-z])")
"""What stands between several equations."""
_BASE = re.compile(r"(?<=[0-9A-F])_\s?\{?\s?(\d{1,2})\s?\}?$")
_VERB = re.compile(r"\b(?:is|are|equals|be|has|have)\b:?\s*", re.IGNORECASE)
_ASIDE = re.compile(
    r"[\s,;.(]*(?:where|for|since|because|when|if|with|assuming|provided(?: that)?|as)\b[^.\n]*",
    re.IGNORECASE,
)
_STATES = re.compile(r"(?:\b(?:is|are|be|equals)|[:=])\s*$", re.IGNORECASE)
_ZEROS = re.compile(r"(?<![\w.])(\d+(?=\.)(?:\.\d*[1-9])?)(?:\.0+|0+)(?![\d.])")
"""A decimal number with zeros at its end."""
_TIGHT = re.compile(r"\s+|\\[,;:! ]|\\(?:left|right)|[${}]|\\[()\[\]]")


class MathOptions(StrictModel):
    """Options of `math`."""

    digits: int = Field(default=6, ge=0, le=15)
    """Decimals to which values are compared where one of them is a decimal number."""


class MathVerifier(Verifier):
    r"""Reads the expression that a text states and compares it by value: `\boxed{\frac{3}{2}}` is 1.5 and 3/2.

    Several boxes side by side state all of their values. An expression that only repeats a part of the question, such as the product that is
    asked for, states nothing. The lenient reading takes what math-verify finds anywhere in the text.
    """

    Options = MathOptions
    is_slow = True
    memory_bytes = 2 << 30

    def __init__(self, options: MathOptions) -> None:
        self._options = options
        self._strict: tuple[Any, str | None] = (None, None)

    def prepare(self) -> None:
        """Import what parses (child process)."""
        _parse(r"\boxed{1}")

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Return what is read with its score (child process), as JSON."""
        assert payload is not None
        known, strict = self._strict
        if lenient and known == (text, payload["answers"]) and strict is not None and "\\boxed" in text:
            return strict  # a box leaves nothing to look for elsewhere
        found = self._read(text, payload, lenient=lenient)
        if lenient and found is None:
            return strict if known == (text, payload["answers"]) else self._read(text, payload, lenient=False)
        if not lenient:
            self._strict = ((text, payload["answers"]), found)
        return found

    def _read(self, text: str, payload: Mapping[str, Any], *, lenient: bool) -> str | None:
        text = before_explanation(own_turn(text))
        first = answered_before_next_question(text)
        if first is not None and (found := self._read_part(first, payload, lenient=lenient)) is not None:
            return found
        return self._read_part(text, payload, lenient=lenient)

    def _read_part(self, text: str, payload: Mapping[str, Any], *, lenient: bool) -> str | None:
        tail = text[-_TAIL:]
        for span in [tail] if lenient else _stated(tail):
            found = _parse(span, anywhere=True) if lenient else _parse_span(span)
            if found and self._is_from_the_question(span, found, payload):
                continue
            right = self._is_right(span, found, payload)
            if not right and not lenient:
                for form in _other_forms(span, payload["answers"], parsed=any(not isinstance(one, str) for one in found)):
                    other = _parse_span(form)
                    if not other or self._is_from_the_question(form, other, payload):
                        continue
                    right = self._is_right(form, other, payload)
                    found = other if right else found or other
                    if right:
                        break
            only_words = _ONLY_WORDS.fullmatch(span) is not None and " " in span
            if not found or (not right and (only_words or all(isinstance(one, str) for one in found))):
                continue  # no expression; such a text may only be written as the answer is
            return json.dumps({"right": right, "read": _written(span, found)})
        return None

    def _is_from_the_question(self, span: str, found: list[Any], payload: Mapping[str, Any]) -> bool:
        said = next((one for one in found if isinstance(one, str)), span)
        return _repeats(said, str(payload["question"]), payload["answers"])

    def _is_right(self, span: str, found: list[Any], payload: Mapping[str, Any]) -> bool:
        if not found:
            return False
        return any(_same_base(answer, span) and self._equal(answer, found) for answer in payload["answers"])

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Return the score that the child worked out.

        Raises:
            CannotGrade: It gave none.
        """
        return float(_reply(extracted)["right"])

    def shown(self, extracted: str) -> str:
        """Return what was read."""
        return str(_reply(extracted)["read"])

    def write(self, answer: str) -> str:
        """Return the answer in a box."""
        return rf"\boxed{{{_inner(answer)}}}"

    def payload(self, problem: Problem) -> Mapping[str, Any]:
        """Return the expected answers, and the question, of which a part is no answer."""
        return {"answers": list(problem.accepted_answers), "question": problem.question}

    def _equal(self, answer: str, found: list[Any]) -> bool:
        from math_verify import verify

        # An inequality is the set of what satisfies it.
        return any(
            verify(expected, found, float_rounding=self._options.digits, allow_set_relation_comp=True, timeout_seconds=None)
            for expected in _expected(answer)
        )


def _reply(extracted: str) -> dict[str, Any]:
    try:
        reply = json.loads(extracted)
        if isinstance(reply["right"], bool) and isinstance(reply["read"], str):
            return dict(reply)
    except (ValueError, TypeError, KeyError):
        pass
    raise CannotGrade(f"the verifier gave {extracted[:40]!r}; allowed: whether it is right, and what was read")


def _parse(text: str, *, anywhere: bool = False) -> list[Any]:
    """Return what math-verify reads in a text: an expression and its text; empty where it reads none.

    Args:
        text: A box, or any text.
        anywhere: Whether to go on to other parts of the text where the first one is no expression.
    """
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it complains that the caller has to bound the time
    if anywhere:
        return list(parse(text, parsing_timeout=None))
    box = [LatexExtractionConfig(boxed_match_priority=0)]
    return list(parse(text, extraction_config=box, extraction_mode="first_match", parsing_timeout=None))


@lru_cache(maxsize=64)
def _expected(answer: str) -> list[list[Any]]:
    """Return what an answer means: as it is written, and as intervals where it is a union of inequalities."""
    intervals = as_intervals(_inner(answer))
    spans = [_inner(answer), *(_stated(answer) if "$" in answer else ())]  # such as "$125$ miles", or a whole solution
    expected = next((found for span in spans if (found := _parse_span(span))), [_inner(answer)])
    return [expected] if intervals is None else [expected, _parse_span(intervals)]


def _inner(answer: str) -> str:
    """Return an answer without the marks around a formula, or its last box."""
    boxes = [statement for statement in find_statements(answer) if statement.kind is StatementKind.BOX]
    if boxes:
        return answer[boxes[-1].begin : boxes[-1].stop].strip()
    whole = _FORMULA.fullmatch(answer.strip())
    return next(part for part in whole.groups() if part).strip() if whole else answer.strip()


def _parse_span(span: str) -> list[Any]:
    """Return what all of a span means; empty where it is no expression."""
    if not span or len(span) > _MOST_CHARACTERS:
        return []
    span = as_expression(span)
    if _has_words(span):
        return _parse(rf"\boxed{{\text{{{span}}}}}") if _ONLY_WORDS.fullmatch(span) else []
    if "\n" in span and "\\begin" not in span:  # lines are several values, not a product
        span = ", ".join(line.strip() for line in span.split("\n") if line.strip())
    return [_with_imaginary_unit(one) for one in _parse(rf"\boxed{{{as_latex(span)}}}")]


def _with_imaginary_unit(found: Any) -> Any:
    """Return an expression in which i is the imaginary unit wherever it stands: math-verify reads 2i so, and i√3 not."""
    from sympy import Basic, Eq, I, Rel

    if isinstance(found, Eq):
        return Eq(found.lhs, _with_imaginary_unit(found.rhs), evaluate=False)
    if not isinstance(found, Basic) or isinstance(found, Rel):
        return found
    named = [one for one in found.free_symbols if str(one) == "i"]
    return found.subs(dict.fromkeys(named, I)) if named else found


def _other_forms(span: str, answers: list[str], *, parsed: bool) -> Iterator[str]:
    """Return what else a span may mean, where that is what is expected: the right side of an equation, a decimal comma, a number with a noun."""
    label = _LABEL.match(span)
    if label is not None:
        yield span[label.end() :]
    left, equals, right = span.rpartition("=")
    # Of x = 5 math-verify takes the right side by itself.
    unread = not parsed or "\\text" in span or "\\mathrm" in span
    if (
        equals
        and unread
        and left.strip()
        and not _SEVERAL.search(left)
        and left.rstrip()[-1] not in "<>!\\"
        and not any("=" in answer for answer in answers)
    ):
        yield right
    if _DECIMAL_COMMA.fullmatch(span.strip()):
        yield span.replace(",", ".")
    if len(_INDEXED.findall(span)) > 1:  # x_1 = 5, x_2 = -2
        yield _INDEXED.sub(r"\1 =", span)
    if (intervals := as_intervals(span)) is not None:
        yield intervals
    if not parsed and (number := read_answer(span)).value is not None:  # 12 apples
        yield _write_number(number)


def _same_base(answer: str, span: str) -> bool:
    """Return whether two numbers are written in the same base, as far as both say in which: 101_2 is not 101_3."""
    bases = [_BASE.search(text.strip(" $")) for text in (answer, span)]
    return bases[0] is None or bases[1] is None or bases[0][1] == bases[1][1]


def _has_words(span: str) -> bool:
    return any(word.lower() not in _FUNCTIONS for word in _WORD.findall(_TEXT_COMMAND.sub(" ", span)))


def _stated(text: str) -> list[str]:
    """Return the parts that state the answer, the likeliest first."""
    statements = find_statements(text)
    marked = any(statement.kind is not StatementKind.MARKER for statement in statements)
    for index in range(len(statements) - 1, -1, -1):
        statement = statements[index]
        if statement.kind is StatementKind.BOX:
            return [", ".join(_beside(text, statements, index))]
        for span in _spans(text, statement):
            # "I hope the answer is correct" takes nothing back.
            if (_has_words(span) and marked and statement.kind is StatementKind.MARKER) or not _parse_span(span):
                continue
            return [span]
    formulas = list(_FORMULA.finditer(text))
    while len(formulas) > 1 and _is_aside(text, *formulas[-2:]):
        formulas.pop()
    if formulas and "\n" not in text[formulas[-1].end() :].strip():
        return [_joined_formulas(text, formulas)]
    whole = _ENDS.sub("", text)
    number = read_number(text)
    if number.status is ReadStatus.NUMBER:
        return [_write_number(number)]
    listed = _TUPLE.search(whole)
    if listed:
        return [listed[0]]
    prose = "\n" in whole or (_has_words(whole) and " " in whole)
    if not prose and number.status is not ReadStatus.SEVERAL:
        return [whole]
    return list(_last_sentence(whole))


def _is_aside(text: str, before: re.Match[str], last: re.Match[str]) -> bool:
    """Return whether a formula only explains the one before it: $x^2$, where $x$ is real."""
    if _ASIDE.fullmatch(text, before.end(), last.start()) is None:
        return False
    return "=" in _content(before) or _STATES.search(text, max(0, before.start() - 20), before.start()) is not None


def _last_sentence(text: str) -> Iterator[str]:
    """Return what the last line of a text states without a mark: all of it where it is words alone, and what follows its verb."""
    line = text.rpartition("\n")[2].strip()
    listed = (
        "\n" not in text
        and re.search(r",|\b(?:or|and)\b", text) is not None
        and not _has_words(as_expression(text))
        and not _VERB.search(text)
    )
    if listed or _ONLY_WORDS.fullmatch(text):
        yield text
    verb = (
        next(iter(_VERB.finditer(line)), None)
        if _ONLY_WORDS.fullmatch(line)
        else max(_VERB.finditer(line), key=lambda one: one.start(), default=None)
    )
    if (
        verb is not None
        and (said := _ENDS.sub("", line[verb.end() :]))
        and (_ONLY_WORDS.fullmatch(said) or not _has_words(as_expression(said)))
    ):
        yield said


def _spans(text: str, statement: Statement) -> Iterator[str]:
    """Return what a statement may state: the formula behind its mark, all of it, or the number in it."""
    begin = statement.begin
    formulas = [one for one in _FORMULA.finditer(text, begin) if one.start() < statement.stop]
    if formulas and re.search(r"[A-Za-z]", text[begin : formulas[0].start()]):  # "Answer: the largest $n$ is 34"
        copula = _COPULA.search(text, formulas[0].end(), statement.stop)
        if copula and not _COPULA.search(text, begin, formulas[0].start()):
            begin = copula.end()
            formulas = [one for one in formulas if one.start() >= begin]
    if formulas and not any(character.isdigit() for character in text[begin : formulas[0].start()]):
        last = 1
        while last < len(formulas) and _JOIN.fullmatch(text, formulas[last - 1].end(), formulas[last].start()):
            last += 1
        yield ", ".join(map(_content, formulas[:last]))
        return
    yield _ENDS.sub("", text[begin : statement.stop])
    number = read_number(text[statement.start : statement.stop])
    if number.status is ReadStatus.NUMBER:
        yield _write_number(number)


def _write_number(number: AnswerReading) -> str:
    """Return a number as LaTeX; with decimals where it has finitely many, because only such numbers are compared as rounded."""
    assert number.value is not None
    decimals = f"{float(number.value)!r}"
    written = decimals if "e" not in decimals and Fraction(decimals) == number.value else str(number.value)
    return written + (r"\%" if number.percent else "")


def _joined_formulas(text: str, formulas: list[re.Match[str]]) -> str:
    """Return the last formula, with those before it that only a comma or a word such as `or` parts from it."""
    parts = [_content(formulas[-1])]
    for before, after in zip(reversed(formulas[:-1]), reversed(formulas[1:]), strict=True):
        if _JOIN.fullmatch(text, before.end(), after.start()) is None:
            break
        is_union = re.search(r"\bor\b", text[before.end() : after.start()]) is not None
        parts.append(_content(before) + (r" \text{ or } " if is_union else ", "))
    return "".join(reversed(parts))


def _content(formula: re.Match[str]) -> str:
    return next(part for part in formula.groups() if part is not None).strip()


def _beside(text: str, statements: list[Statement], last: int) -> list[str]:
    """Return the content of a box, with those of the boxes right before it."""
    boxes = [statement for statement in statements[: last + 1] if statement.kind is StatementKind.BOX]
    parts = [text[boxes[-1].begin : boxes[-1].stop].strip()]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        if _JOIN.fullmatch(text, before.end, after.start) is None:
            break
        if (one := text[before.begin : before.stop].strip()) not in parts:
            parts.append(one)
    return list(reversed(parts))


def _repeats(span: str, question: str, answers: list[str]) -> bool:
    """Return whether an expression is a part of the question, and neither a number nor written as the answer is."""
    said = _TIGHT.sub("", span)
    if _LITERAL.fullmatch(span.strip()) or said in {_TIGHT.sub("", _inner(answer)) for answer in answers}:
        return False
    return len(said) > 2 and said in _TIGHT.sub("", question)


def _written(span: str, found: list[Any]) -> str:
    """Return an expression in one way of writing it, so that equal answers are counted as one: 46, and not sympy's 46.0000000000000."""
    try:
        written = _ZEROS.sub(r"\1", str(found[0]))
    except Exception:  # sympy fails to write some of what it can build
        return span[:200]
    return written if len(written) <= 200 else span[:200]
