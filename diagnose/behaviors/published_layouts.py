r"""Rows as well-known evaluation sets publish them, read as problems.

A file is recognised by the columns of its first row: GSM8K, MATH, MMLU, ARC, HumanEval, MBPP, IFEval, BBH, the sets that share their columns
(MATH-500, MMLU-Pro, sanitized MBPP, HumanEval+), and what verl trains on. Solutions become reference paths, line by line; columns that have no meaning here go into metadata.
The template that says how to answer is only proposed: what is sent to a model stays what the file and the behavior say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.diagnose.behaviors.column_names import ALIASES, single_choices
from posttrain.diagnose.behaviors.row_contents import (
    LETTERS,
    as_metadata,
    as_text,
    letter_of,
    lines_as_steps,
    list_choices,
    plain_turn,
    read_choices,
    split_worked_answer,
    usual_answers,
)
from posttrain.diagnose.behaviors.row_files import RowError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.verifiers.reader.boxes import last_box

_LISTED_CHOICE = re.compile(r"^\(([A-Z])\) (.+)$", re.MULTILINE)
"""As BBH lists them in the question."""


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
    alone: bool = False
    """Whether the row has these columns and no others."""
    holds: Callable[[Mapping[str, Any]], bool] = lambda row: True
    """Whether what the columns hold fits too."""


def find_layout(row: Mapping[str, Any]) -> Layout | None:
    """Return the layout that a row has; None for one that has none of these, such as our own."""
    held = {name for name, value in row.items() if value is not None}
    if any(isinstance(row.get(name), str) for name in ALIASES["context"]) or single_choices(row, held):
        return None  # a text that the question is about, or a column for each choice: none of these has that
    for layout in LAYOUTS:
        fits = all(held & set(names) for names in layout.columns)
        if fits and not (layout.alone and len(held) > len(layout.columns)) and layout.holds(row):
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
    worked = split_worked_answer(_text(row, "answer", where))
    if worked is None:
        raise RowError(
            f"{where}: answer: got {shorten(row['answer'])}; allowed: a solution that ends in `#### NUMBER`, as in GSM8K"
        )
    return _row(row, where, "question", answer=worked.answer, solution=worked.solution, used=("question", "answer"))


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
    if isinstance(question, Mapping):  # as AI2 publishes ARC
        question, found = question.get("stem"), question.get("choices", found)
    texts, labels = read_choices(found)
    if not isinstance(question, str) or not 2 <= len(texts) <= len(LETTERS) or not all(isinstance(text, str) for text in texts):
        raise RowError(f"{where}: {name}: got {shorten(found)}; allowed: two texts or more, beside a question")
    key = row["answerKey"] if row.get("answerKey") is not None else row["answer"]
    letter = letter_of(key, texts, labels)
    if letter is None:
        raise RowError(
            f"{where}: the answer is {shorten(key)}, which is none of the {len(texts)} {name}; allowed: an index from 0, a label or a letter"
        )
    used = ("question", "choices", "options", "answer", "answerKey", "answer_index", "id", "question_id")
    made = _row({**row, "question": list_choices(question, texts)}, where, "question", answer=letter, used=used)
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


def _bbh(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    made = _row(row, where, "input", answer=_scalar(row["target"], "target", where), used=("input", "target"))
    listed = _LISTED_CHOICE.findall(made["prompt"])
    if [letter for letter, _ in listed] == list(LETTERS[: len(listed)]) and listed:
        made["metadata"] = {"choices": [text.strip() for _, text in listed]}
    return made


def _verl(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read a row of verl's: its reward function stays behind, and the ground truth is what the behavior's verifier compares with.

    Source: https://verl.readthedocs.io/en/latest/preparation/prepare_data.html.
    """
    reward, notes = row["reward_model"], row.get("extra_info")
    if not isinstance(reward, Mapping) or reward.get("ground_truth") is None:
        raise RowError(f'{where}: reward_model: got {shorten(reward)}; allowed: an object such as {{"ground_truth": "72"}}')
    answer = as_text(reward["ground_truth"])
    if answer is None or not answer.strip():
        raise RowError(
            f"{where}: ground_truth: got {shorten(reward['ground_truth'])}; allowed: a text or a number; answers of another kind need a verifier of "
            "their own, so write the problems as JSONL"
        )
    index, split = (notes.get("index"), notes.get("split")) if isinstance(notes, Mapping) else (None, None)
    return {
        "id": None if index is None else f"{'row' if split is None else split}-{index}",
        "prompt": row["prompt"],
        "answer": answer,
        "metadata": {name: row[name] for name in ("data_source", "ability") if isinstance(row.get(name), str)},
    }


def _nemo_gym(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read a row of NeMo Gym's: its server's grading stays behind, and what is expected is what the behavior's verifier compares with."""
    asked, notes = row["responses_create_params"], row.get("verifier_metadata")
    if not isinstance(asked, Mapping) or not isinstance(asked.get("input"), str | list):
        raise RowError(
            f"{where}: responses_create_params: got {shorten(asked)}; allowed: an object with an input, a text or a chat"
        )
    if asked.get("tools"):
        raise RowError(
            f"{where}: responses_create_params.tools: got {len(asked['tools'])} tools, which run in an environment; give rows without tools, or import "
            "finished rollouts with `posttrain import`"
        )
    prompt = asked["input"]
    if isinstance(prompt, list):
        prompt = [
            {k: v for k, v in plain_turn(turn).items() if k in ("role", "content")} if isinstance(turn, Mapping) else turn
            for turn in prompt
        ]
        prompt = [
            {**turn, "role": "system"} if isinstance(turn, dict) and turn.get("role") == "developer" else turn for turn in prompt
        ]
    if isinstance(said := asked.get("instructions"), str):
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        prompt = [{"role": "system", "content": said}, *turns]
    texts, labels = read_choices(row.get("options"))
    answers = usual_answers(row) or (usual_answers(notes) if isinstance(notes, Mapping) else [])
    name = next((row[key] for key in ("id", "uuid", "task_id", "problem_id", "question_id") if row.get(key) is not None), None)
    letters = [letter_of(answer, texts, labels) for answer in answers] if texts else []
    answers = letters if letters and None not in letters else answers
    rest = {k: v for k, v in row.items() if k not in ("responses_create_params", "agent_ref", "options")}
    return {
        "id": None if name is None else str(name),
        "prompt": prompt,
        "answer": answers[0] if answers else None,
        "answers": answers[1:] or None,
        "metadata": as_metadata({**rest, "choices": texts or None}),
    }


def _question_and_answer(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if "####" in str(row["answer"]):
        return _gsm8k(row, where)
    return _row(row, where, "question", answer=_scalar(row["answer"], "answer", where), used=("question", "answer"))


LAYOUTS = (
    Layout("verl", (("prompt",), ("reward_model",)), _verl, None),
    Layout("IFEval", (("prompt",), ("instruction_id_list",), ("kwargs",)), _ifeval, "ifeval"),
    Layout("NeMo Gym", (("responses_create_params",),), _nemo_gym, None),
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
        (("problem",), ("solution",)),
        _math,
        "math",
        "{question}\nThink step by step, and put the final answer into \\boxed{}.",
        holds=lambda row: row.get("answer") is not None or bool(last_box(str(row["solution"]))),
    ),
    Layout(
        "GSM8K",
        (("question",), ("answer",)),
        _question_and_answer,
        None,
        "{question}\nThink step by step, and end with a line that holds #### and the number alone.",
        holds=lambda row: "####" in str(row["answer"]),
    ),
    Layout(
        "BBH",
        (("input",), ("target",)),
        _bbh,
        None,
        "{question}\nWrite the answer alone, without an explanation.",
        alone=True,
        holds=lambda row: isinstance(row["input"], str),
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
    split = rest.pop("split", None)
    return {
        "id": None if name is None else str(name),
        "prompt": _text(row, prompt, where),
        "answer": answer,
        "references": None if solution is None else [{"steps": lines_as_steps(solution), "joiner": ""}],
        "split": split,
        "metadata": as_metadata(rest),
    }


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where}: {name}: got {shorten(value)}; allowed: a text")
    return value


def _scalar(value: Any, name: str, where: str) -> str:
    """Return an answer as text; numbers are written out."""
    text = as_text(value)
    if text is None or not text.strip():
        raise RowError(f"{where}: {name}: got {shorten(value)}; allowed: a text or a number")
    return text.strip()
