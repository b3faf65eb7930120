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
import unicodedata
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pydantic import Field

from posttrain.diagnose.strict_settings import StrictModel
from posttrain.diagnose.types import Problem
from posttrain.diagnose.verifiers.base import CannotGrade, Verifier
from posttrain.diagnose.verifiers.reader.answer_reading import AnswerReading, ReadStatus, read_number
from posttrain.diagnose.verifiers.reader.statements import Statement, StatementKind, find_statements
from posttrain.diagnose.verifiers.reader.turns import before_explanation, before_next_question, own_turn, states_an_answer

_MOST_CHARACTERS = 1_000
"""Of an expression; a longer one is none."""
_TAIL = 20_000
"""Characters at the end of a text in which the answer is looked for."""
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\d])\$([^$\n]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL)
_JOIN = re.compile(r"(?:[\s,;*$]|\\[()\[\]]|\\q?quad|\\text\{\s*(?:or|and)\s*\}|\b(?:or|and)\b){0,20}", re.IGNORECASE)
_COPULA = re.compile(r"\b(?:is|are|equals)\b:?", re.IGNORECASE)
_PERCENT = re.compile(r"(?<=[\d}])\s*(?:percent(?:age)?|pct)\b", re.IGNORECASE)
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
_SIGNS = {
    ord("π"): "\\pi ", ord("∞"): "\\infty ", ord("≤"): "\\le ", ord("≥"): "\\ge ", ord("≠"): "\\ne ", ord("±"): "\\pm ", ord("×"): "\\times ",
    ord("·"): "\\cdot ", ord("÷"): "\\div ", ord("∪"): "\\cup ", ord("∩"): "\\cap ", ord("∈"): "\\in ", ord("°"): "^\\circ ", ord("θ"): "\\theta ",
    ord("\N{MINUS SIGN}"): "-", ord("\N{EN DASH}"): "-", ord("\N{FRACTION SLASH}"): "/",
}  # fmt: skip
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[A-Za-z])|\(([^()]*)\))")
_ROOT_OF = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|exp|log|ln)(?=\s*[\d({]|\s+[A-Za-z]\b)"
)
_TUPLE = re.compile(r"[(\[][^()\[\]\n]{0,80},[^()\[\]\n]{0,80}[)\]]$")
_RAISED = re.compile("[²³¹⁰⁴-⁻ⁿ]+")
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
        if not lenient:
            self._strict = ((text, payload["answers"]), found)
        return found

    def _read(self, text: str, payload: Mapping[str, Any], *, lenient: bool) -> str | None:
        text = before_explanation(own_turn(text))
        first = before_next_question(text)
        if (
            first is not None
            and states_an_answer(first)
            and (found := self._read_part(first, payload, lenient=lenient)) is not None
        ):
            return found
        return self._read_part(text, payload, lenient=lenient)

    def _read_part(self, text: str, payload: Mapping[str, Any], *, lenient: bool) -> str | None:
        tail = text[-_TAIL:]
        for span in [tail] if lenient else _stated(tail):
            found = _parse(span, anywhere=True) if lenient else _parse_span(span)
            said = next((one for one in found if isinstance(one, str)), span)
            if not found or _repeats(said, str(payload["question"]), payload["answers"]):
                continue
            right = any(self._equal(answer, found) for answer in payload["answers"])
            if not right and all(isinstance(one, str) for one in found):
                continue  # no expression; such a text may only be written as the answer is
            return json.dumps({"right": right, "read": _written(span, found)})
        return None

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
        same = verify(
            _expected(answer), found, float_rounding=self._options.digits, allow_set_relation_comp=True, timeout_seconds=None
        )
        return bool(same)


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
def _expected(answer: str) -> list[Any]:
    spans = [_inner(answer), *(_stated(answer) if "$" in answer else ())]  # such as "$125$ miles", or a whole solution
    return next((found for span in spans if (found := _parse_span(span))), [_inner(answer)])


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
    span = _PERCENT.sub(r"\\%", span)
    if _has_words(span):
        return _parse(rf"\boxed{{\text{{{span}}}}}") if _ONLY_WORDS.fullmatch(span) else []
    if "\n" in span and "\\begin" not in span:  # lines are several values, not a product
        span = ", ".join(line.strip() for line in span.split("\n") if line.strip())
    return _parse(rf"\boxed{{{_as_latex(span)}}}")


def _has_words(span: str) -> bool:
    return any(word.lower() not in _FUNCTIONS for word in _WORD.findall(_TEXT_COMMAND.sub(" ", span)))


def _as_latex(span: str) -> str:
    """Write signs that are no LaTeX as commands: 3√13, 2π, x², 4*x**3."""
    span = _ROOT.sub(r"\\sqrt{\g<1>\g<2>}", span.translate(_SIGNS))
    span = _RAISED.sub(lambda match: f"^{{{unicodedata.normalize('NFKC', match[0]).translate(_SIGNS)}}}", span)
    return _FUNCTION.sub(r"\\\g<0>", _ROOT_OF.sub(r"\\sqrt{\g<1>}", span)).replace("**", "^")


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
    return [] if prose or number.status is ReadStatus.SEVERAL else [whole]


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
        parts.append(_content(before))
    return ", ".join(reversed(parts))


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
