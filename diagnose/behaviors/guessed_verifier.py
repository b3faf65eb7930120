"""Which verifier fits the answers of a file that names none."""

from __future__ import annotations

import re

from posttrain.diagnose.behaviors.problem_rows import ProblemFile
from posttrain.diagnose.behaviors.row_contents import LETTERS
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import VerifierSpec
from posttrain.diagnose.verifiers.number import parse_number

_LATEX = re.compile(r"\\[A-Za-z]+|\$[^$]+\$|[\w)}]\^\{?[\w(-]|\b[A-Za-z]_(?:\{|\d)")
"""A command, a formula, a power or an index."""
_LETTERS_OF_CHOICE = 10
_LETTER = re.compile(r"[A-J]|\([A-Z]\)")
"""A choice; beyond J a letter in parentheses alone."""


def guess_verifier(file: ProblemFile, where: str) -> VerifierSpec:
    """Return the verifier that fits every answer of a file.

    What the layout says counts first. Numbers are read by `number`, the letters A to J and letters in parentheses by `choice`, answers of which one is LaTeX by `math`, and other texts of one line are
    compared whole by `exact`.

    Raises:
        BehaviorError: Rows have no answer, or one of several lines: what is right then cannot be known from the answer alone.
    """
    if file.verifier is not None:
        return _choice(file) if file.verifier == "choice" else VerifierSpec(kind=file.verifier)
    if not any(row.answer for row in file.rows) and (names := list(file.rows[0].metadata)):
        raise BehaviorError(
            f"{where}: got the columns {', '.join(names)} beside the prompt, none of which is known to hold the answer; say which does, as in "
            f"--map answer=COLUMN (or `columns:` in a behavior file), or name a verifier that needs none, such as --verifier code for rows with tests; graded samples are read by `posttrain import auto FILE`",
            code="missing_key",
        )
    for row in file.rows:
        if not row.answer:
            raise BehaviorError(
                f"{file.places.get(row.id, where)}: the row has no answer, and no verifier is named; give each row an answer, or name a verifier that needs none, such as "
                "verifier: {kind: code} for rows with tests",
                code="missing_key",
            )
    answers = [answer for row in file.rows for answer in (row.answer, *row.answers)]
    if all(parse_number(answer) is not None for answer in answers):
        return VerifierSpec(kind="number")
    if all(_LETTER.fullmatch(answer.strip()) for answer in answers):
        return _choice(file)
    for row in file.rows:
        if any("\n" in answer.strip() for answer in (row.answer, *row.answers)):
            raise BehaviorError(
                f"{file.places.get(row.id, where)}: answer: got several lines, {shorten(row.answer)}, and no verifier is named; say in a behavior file, or with --verifier, what is right: "
                "verifier: {kind: exact} for this very text, {kind: regex, pattern: ...} for a part of it, {kind: code} for a program with tests, "
                "{kind: judge, ...} for its meaning; or keep the solution under references and the short result under answer",
                code="multi_line_answer",
            )
    return VerifierSpec(kind="math" if any(_LATEX.search(answer) for answer in answers) else "exact")


def _choice(file: ProblemFile) -> VerifierSpec:
    """Return the verifier of choices, which knows A to J where it is not told more letters."""
    last = max((answer.strip().strip("()") for row in file.rows for answer in (row.answer, *row.answers)), default="J")
    most = max((len(row.metadata.get("choices", ())) for row in file.rows), default=0)
    num = max(ord(last) - ord("A") + 1 if len(last) == 1 else 0, most)
    return VerifierSpec(kind="choice", options={"letters": LETTERS[:num]} if num > _LETTERS_OF_CHOICE else {})
