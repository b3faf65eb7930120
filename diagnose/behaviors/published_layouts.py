r"""Rows as well-known evaluation sets publish them, read as problems.

A file is recognised by the columns of its first row: GSM8K, MATH, MMLU, ARC, HumanEval, MBPP, IFEval, and the sets that share their columns
(MATH-500, MMLU-Pro, sanitized MBPP, HumanEval+). Solutions become reference paths, line by line; columns that have no meaning here go into metadata.
The template that says how to answer is only proposed: what is sent to a model stays what the file and the behavior say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.diagnose.behaviors.row_files import RowError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.verifiers.reader.boxes import last_box

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CALCULATION = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one set publishes its rows."""

    name: str
    columns: tuple[tuple[str, ...], ...]
    """Each of these must be there, under one of its names."""
    convert: Callable[[Mapping[str, Any], str], dict[str, Any]]
    """(row, where) → the row as `problem_rows` reads it."""
    verifier: str | None
    """The kind that fits; None where the answers decide."""
    template: str = "{question}"
    """A prompt that says how to answer, as a proposal."""


def find_layout(row: Mapping[str, Any]) -> Layout | None:
    """Return the layout that a row has; None for one that has none of these, such as our own."""
    for layout in LAYOUTS:
        if all(any(row.get(name) is not None for name in names) for names in layout.columns):
            return layout
    return None


def convert_row(layout: Layout, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a row as `problem_rows` reads it.

    Args:
        layout: That of the file's first row.
        row: One row.
        where: File and line, for error messages.

    Raises:
        BehaviorError: A column is missing or holds something else.
    """
    for names in layout.columns:
        if all(row.get(name) is None for name in names):
            raise RowError(
                f"{where}: the row has no {' or '.join(names)}, as the first row has, whose columns are those of {layout.name}; rows of one file have one layout"
            )
    return {name: value for name, value in layout.convert(row, where).items() if value is not None}


def _gsm8k(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    solution, mark, answer = _text(row, "answer", where).rpartition("####")
    if not mark or not answer.strip():
        raise RowError(
            f"{where}: answer: got {shorten(row['answer'])}; allowed: a solution that ends in `#### NUMBER`, as in GSM8K"
        )
    path = _CALCULATION.sub("", solution + mark + answer)
    return _row(row, where, "question", answer=answer.strip(), solution=path, used=("question", "answer"))


def _math(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    solution = _text(row, "solution", where) if row.get("solution") is not None else None
    answer = row.get("answer")
    answer = last_box(solution or "") if answer is None else _scalar(answer, "answer", where)
    if not answer:
        raise RowError(
            rf"{where}: solution: got {shorten(solution)}; allowed: a solution with its answer in \boxed{{}}, or a column answer beside it"
        )
    return _row(row, where, "problem", answer=answer, solution=solution, used=("problem", "solution", "answer", "unique_id"))


def _multiple_choice(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = "choices" if row.get("choices") is not None else "options"
    question: Any = row["question"]
    found: Any = row.get(name)
    texts: list[str]
    labels: list[str] = []
    if isinstance(question, Mapping):  # as AI2 publishes ARC
        question, found = question.get("stem"), question.get("choices", found)
    if isinstance(found, Mapping):
        texts, labels = list(found.get("text", ())), [str(label) for label in found.get("label", ())]
    elif isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        texts, labels = [one.get("text") for one in found], [str(one.get("label")) for one in found]
    else:
        texts = found if isinstance(found, list) else []
    if not isinstance(question, str) or not 2 <= len(texts) <= len(_LETTERS) or not all(isinstance(text, str) for text in texts):
        raise RowError(f"{where}: {name}: got {shorten(found)}; allowed: two texts or more, beside a question")
    key = row["answerKey"] if row.get("answerKey") is not None else row["answer"]
    letter = _letter(key, texts, labels)
    if letter is None:
        raise RowError(
            f"{where}: the answer is {shorten(key)}, which is none of the {len(texts)} {name}; allowed: an index from 0, a label or a letter"
        )
    listed = "\n".join(f"{_LETTERS[place]}. {text.strip()}" for place, text in enumerate(texts))
    used = ("question", "choices", "options", "answer", "answerKey", "answer_index", "id", "question_id")
    made = _row({**row, "question": f"{question.strip()}\n{listed}"}, where, "question", answer=letter, used=used)
    return {**made, "metadata": {**made["metadata"], "choices": [text.strip() for text in texts]}}


def _humaneval(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    solution = _text(row, "canonical_solution", where) if row.get("canonical_solution") else None
    return _row(row, where, "prompt", solution=solution, used=("prompt", "canonical_solution", "task_id"))


def _mbpp(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = "text" if row.get("text") is not None else "prompt"
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise RowError(f"{where}: test_list: got {shorten(tests)}; allowed: a list of tests, as in MBPP")
    shown = "\n".join(tests)
    question = f"{_text(row, name, where).strip()}\nYour code should pass these tests:\n\n{shown}"
    solution = _text(row, "code", where) if row.get("code") else None
    return _row(
        {**row, name: question}, where, name, solution=solution, used=("text", "prompt", "code", "task_id", "source_file")
    )


def _ifeval(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    kinds, arguments = row["instruction_id_list"], row["kwargs"]
    if not (isinstance(kinds, list) and isinstance(arguments, list) and len(kinds) == len(arguments)):
        raise RowError(f"{where}: kwargs: got {shorten(arguments)}; allowed: as many objects as instruction_id_list has names")
    # A table has a column for every argument of any row.
    given = [{name: value for name, value in (one or {}).items() if value is not None} for one in arguments]
    made = _row({**row, "kwargs": given}, where, "prompt", used=("prompt", "key"))
    return made | {"id": None if row.get("key") is None else str(row["key"])}


def _question_and_answer(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "####" in str(row["answer"]):
        return _gsm8k(row, where)
    return _row(row, where, "question", answer=_scalar(row["answer"], "answer", where), used=("question", "answer"))


LAYOUTS = (
    Layout("IFEval", (("prompt",), ("instruction_id_list",), ("kwargs",)), _ifeval, "ifeval"),
    Layout(
        "HumanEval",
        (("prompt",), ("test",), ("entry_point",)),
        _humaneval,
        "code",
        "Complete the function, and write all of it in one ```python block.\n\n{question}",
    ),
    Layout("MBPP", (("text", "prompt"), ("test_list",)), _mbpp, "code", "{question}\n\nWrite the code in one ```python block."),
    Layout(
        "ARC",
        (("question",), ("choices", "question"), ("answerKey",)),
        _multiple_choice,
        "choice",
        "{question}\nEnd with: The answer is LETTER.",
    ),
    Layout(
        "MMLU",
        (("question",), ("choices", "options"), ("answer",)),
        _multiple_choice,
        "choice",
        "{question}\nEnd with: The answer is LETTER.",
    ),
    Layout(
        "MATH",
        (("problem",), ("solution", "answer")),
        _math,
        "math",
        "{question}\nThink step by step, and put the final answer into \\boxed{}.",
    ),
    Layout(
        "GSM8K",
        (("question",), ("answer",)),
        _question_and_answer,
        None,
        "{question}\nThink step by step, and end with a line that holds #### and the number alone.",
    ),
)
"""Those that need more columns come first."""


def _row(
    row: Mapping[str, Any],
    where: str,
    prompt: str,
    *,
    used: tuple[str, ...],
    answer: str | None = None,
    solution: str | None = None,
) -> dict[str, Any]:
    """Return a row of ours; columns that are not `used` go into metadata."""
    name = next((row[key] for key in ("task_id", "unique_id", "id", "question_id") if row.get(key) is not None), None)
    rest = {key: value for key, value in row.items() if key not in (*used, "id", "unique_id", "task_id") and value is not None}
    return {
        "id": None if name is None else str(name),
        "prompt": _text(row, prompt, where),
        "answer": answer,
        "references": None if solution is None else [{"steps": _lines(solution), "joiner": ""}],
        "metadata": json.loads(json.dumps(rest, default=str)),
    }


def _lines(text: str) -> list[str]:
    """Return a text line by line, as steps that make it up; blank lines belong to the line before them."""
    steps: list[str] = []
    for line in text.rstrip().splitlines(keepends=True):
        if steps and not (line.strip() and steps[-1].strip()):
            steps[-1] += line
        else:
            steps.append(line)
    return steps


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where}: {name}: got {shorten(value)}; allowed: a text")
    return value


def _scalar(value: Any, name: str, where: str) -> str:
    """Return an answer as text; numbers are written out."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value) if value == int(value) else value)
    raise RowError(f"{where}: {name}: got {shorten(value)}; allowed: a text or a number")


def _letter(key: Any, texts: list[str], labels: list[str]) -> str | None:
    """Return the letter of the choice that a label, a letter, an index or its words name."""
    if isinstance(key, int) and not isinstance(key, bool):
        return _LETTERS[key] if 0 <= key < len(texts) and not labels else _letter(str(key), texts, labels)
    if not isinstance(key, str) or not key.strip():
        return None
    word = key.strip()
    names = labels or list(_LETTERS[: len(texts)])
    place = names.index(word) if word in names else texts.index(word) if texts.count(word) == 1 else None
    if place is None and word.isdigit() and not labels and int(word) < len(texts):
        place = int(word)
    return None if place is None else _LETTERS[place]
