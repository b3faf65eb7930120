"""Which verifier fits the answers of a file that names none."""

from __future__ import annotations

import re

from posttrain.diagnose.behaviors.problem_rows import ProblemFile
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.verifiers.number import parse_number

_LATEX = re.compile(r"\\[A-Za-z]+|\$[^$]+\$|[\w)}]\^\{?[\w(-]|\b[A-Za-z]_(?:\{|\d)")
"""A command, a formula, a power or an index."""


def guess_verifier(file: ProblemFile, where: str) -> str:
    """Return the kind of verifier that fits every answer of a file.

    Numbers are read by `number`, the letters A to J by `choice`, answers of which one is LaTeX by `math`, and other texts of one line are
    compared whole by `exact`.

    Raises:
        BehaviorError: Rows have no answer, or one of several lines: what is right then cannot be known from the answer alone.
    """
    for row in file.rows:
        if not row.answer:
            raise BehaviorError(
                f"{file.places.get(row.id, where)}: the row has no answer, and no verifier is named; give each row an answer, or name a verifier that needs none, such as "
                "verifier: {kind: code} for rows with tests",
                code="missing_key",
            )
    answers = [answer for row in file.rows for answer in (row.answer, *row.answers)]
    if all(parse_number(answer) is not None for answer in answers):
        return "number"
    if all(re.fullmatch(r"[A-J]", answer.strip()) for answer in answers):
        return "choice"
    for row in file.rows:
        if any("\n" in answer.strip() for answer in (row.answer, *row.answers)):
            raise BehaviorError(
                f"{file.places.get(row.id, where)}: answer: got several lines, {shorten(row.answer)}, and no verifier is named; say in a behavior file, or with --verifier, what is right: "
                "verifier: {kind: exact} for this very text, {kind: regex, pattern: ...} for a part of it, {kind: code} for a program with tests, "
                "{kind: judge, ...} for its meaning; or keep the solution under references and the short result under answer",
                code="multi_line_answer",
            )
    return "math" if any(_LATEX.search(answer) for answer in answers) else "exact"
