r"""What rows of a data set hold, whatever their columns are called: worked answers, choices, chats, numbers.

`#### 42` at the end of an answer and `\boxed{42}` in it set the result apart from the way to it, which becomes a reference path line by line.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.diagnose.behaviors.chat_turns import as_messages
from posttrain.diagnose.behaviors.column_names import ALIASES, Columns, refuse_no_prompt
from posttrain.diagnose.behaviors.row_files import RowError, read_written
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.verifiers.reader.boxes import last_box

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SPLITS_OF_OTHERS = {"test": "eval", "validation": "eval", "valid": "eval", "val": "eval"}
"""Names of splits in published sets → ours: what is not for training is measured."""
_LETTER_FIRST = re.compile(r"\(?([A-Z])[).:]\s")
"""As in `B. Paris`."""
_LABEL = re.compile(r"\s*\(?([A-Z])\s?[).:]\s*")
"""What stands before a choice that says its own letter, as in `(B)Paris`."""
_TRUTHS: Mapping[bool, list[str]] = {True: ["yes", "true"], False: ["no", "false"]}
_CALCULATION = re.compile(r"<<[^<>\n]*>>")


class WorkedAnswer(NamedTuple):
    """A result, and the text that leads to it."""

    answer: str
    solution: str
    is_boxed: bool
    r"""Whether the result stands in `\boxed{}`."""


def split_worked_answer(text: str) -> WorkedAnswer | None:
    r"""Return the result behind the last `####`, or in the last `\boxed{}` of a longer text; None where there is neither."""
    before, mark, answer = text.rpartition("####") if "####" in text else ("", "", "")
    if mark and answer.strip() and "\n" not in answer.strip():
        return WorkedAnswer(answer.strip(), _CALCULATION.sub("", before + mark + answer), False)
    boxed = last_box(text)
    if boxed and not re.fullmatch(r"\W*\\(?:boxed|fbox)\s*\{.*\}\W*", text.strip()):
        return WorkedAnswer(boxed, text, True)
    return None


def lines_as_steps(text: str) -> list[str]:
    """Return a text line by line, as steps that make it up; blank lines belong to the line before them."""
    steps: list[str] = []
    for line in text.rstrip().splitlines(keepends=True):
        if steps and not (line.strip() and steps[-1].strip()):
            steps[-1] += line
        else:
            steps.append(line)
    return steps


def as_text(value: Any) -> str | None:
    """Return a text as it is and a number written out; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value) if value.is_integer() else value)
    return None


def as_metadata(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON holds them; what is empty, or bytes such as an image, is left out."""
    kept = {name: value for name, value in values.items() if value is not None and not isinstance(value, bytes)}
    return dict(json.loads(json.dumps(kept, default=str))) if kept else {}


def list_choices(question: str, texts: Sequence[str]) -> str:
    """Return a question with its choices below it, each behind a letter; as it is where it lists them already."""
    if all(
        re.search(rf"(?:^\W*|\(){LETTERS[place]}\W{{1,3}}\s*{re.escape(text.strip())}", question, re.M)
        for place, text in enumerate(texts)
    ):
        return question
    listed = "\n".join(f"{LETTERS[place]}. {text.strip()}" for place, text in enumerate(texts))
    return f"{question.strip()}\n{listed}"


def read_choices(found: Any) -> tuple[list[Any], list[str]]:
    """Return the texts of choices, without letters of their own, and their labels, however they are written; no texts where they cannot be read."""
    found = read_written(found) if isinstance(found, str) else found
    texts, labels = _read_choices(found)
    begins = [_LABEL.match(text) if isinstance(text, str) else None for text in texts]
    if [match and match[1] for match in begins] == list(LETTERS[: len(texts)]):  # as AQuA has them
        texts = [text[match.end() :] for text, match in zip(texts, begins, strict=True) if match]
    return texts, labels


def _read_choices(found: Any) -> tuple[list[Any], list[str]]:
    if isinstance(found, Mapping) and "text" in found:
        return list(found.get("text", ())), [str(label) for label in found.get("label", ())]
    if isinstance(found, Mapping):  # {"A": "one", "B": "two"}
        return list(found.values()), [str(label) for label in found]
    # [{"A": "one"}, {"B": "two"}]
    if isinstance(found, list) and found and all(isinstance(one, Mapping) and len(one) == 1 for one in found):
        return [text for one in found for text in one.values()], [str(label) for one in found for label in one]
    if isinstance(found, list) and found and all(isinstance(one, Mapping) for one in found):
        return [one.get("text") for one in found], [str(one.get("label")) for one in found]
    return (found if isinstance(found, list) else []), []


def letter_of(key: Any, texts: Sequence[str], labels: Sequence[str], first_index: int = 0) -> str | None:
    """Return the letter of the choice that a key names.

    Args:
        key: A label, a letter, a number, true or false, or the words of a choice.
        texts: The choices.
        labels: Of each choice, where they have some.
        first_index: What a number calls the first choice, where no label is a number.
    """
    if isinstance(key, bool):
        return next((LETTERS[place] for place, text in enumerate(texts) if str(text).strip().lower() in _TRUTHS[key]), None)
    word = str(key).strip() if isinstance(key, str | int) else ""
    if not word:
        return None
    names = [label.upper() for label in labels] or list(LETTERS[: len(texts)])
    begins, label = _LETTER_FIRST.match(word), _LABEL.match(word)
    for one in (word, word.strip("().").strip().upper()):
        if one in names:
            return LETTERS[names.index(one)]
    if label and label[1] in names and str(texts[names.index(label[1])]).strip() == word[label.end() :]:
        return LETTERS[names.index(label[1])]
    if list(texts).count(word) == 1:
        return LETTERS[list(texts).index(word)]
    place = int(word) - first_index if word.isdigit() and len(word) < 4 and not any(name.isdigit() for name in names) else -1
    if 0 <= place < len(texts):
        return LETTERS[place]
    return LETTERS[names.index(begins[1])] if begins and begins[1] in names else None


def convert_columns(columns: Columns, row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a row as `problem_rows` reads it.

    Args:
        columns: Which column holds what.
        row: One row.
        where: File and place, for error messages.

    Raises:
        BehaviorError: The row has no prompt, or its choices and answer do not fit together.
    """
    made = {name: value for name, column in columns.own if (value := row.get(column)) is not None}
    prompt, said = _prompt(columns, row, where)
    made["prompt"] = prompt
    if isinstance(made.get("answers"), str):
        made["answers"] = read_written(made["answers"])
    if isinstance(made.get("answers"), Mapping):
        made["answers"] = read_answers(made["answers"]) or None
    solution = as_text(columns.held(row, "solution")) if "solution" in columns.names else None
    if "answer" in made and solution is None:
        solution = as_text(said)
    answers = read_answers(made.pop("answer", said))
    choices: Any = columns.held(row, "choices")
    if "wrong" in columns.names and choices is None:
        choices = _mix(str(prompt), answers, columns.held(row, "wrong"))
        answers = [LETTERS[choices.index(answer)] for answer in answers[:1] if len(choices) <= len(LETTERS)]
    chosen: dict[str, Any] = {}
    if choices is not None:
        chosen = _chosen(prompt, choices, answers, columns.first_index, where)
    else:
        only = answers[0] if len(answers) == 1 else None
        worked = split_worked_answer(only) if isinstance(only, str) else None
        if worked is not None:
            answers, solution = [worked.answer], solution or worked.solution
        elif isinstance(only, bool):
            answers = _TRUTHS[only]
        made |= {"answer": answers[0]} if answers else {}
        if len(answers) > 1:
            made["answers"] = [*answers[1:], *(made.get("answers") or ())]
    if "id" in made:
        made["id"] = as_text(made["id"]) or made["id"]
    if solution and solution.strip() and "references" not in made:
        made["references"] = [{"steps": lines_as_steps(solution), "joiner": ""}]
    metadata = _read_metadata(made.get("metadata", {}))
    if isinstance(metadata, dict):
        further = as_metadata({name: row.get(name) for name in columns.extra}) if columns.extra else {}
        made["metadata"] = further | chosen.pop("metadata", {}) | metadata
    return made | chosen


def _read_metadata(value: Any) -> Any:
    """Return metadata that others write as a text as an object; anything else as it is."""
    if not isinstance(value, str):
        return value
    written = read_written(value)
    return written if isinstance(written, dict) else {"metadata": value}


def holds_boxes(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> bool:
    r"""Return whether the answer of a row is cut out of `\boxed{}`."""
    named = [column for name in ("answer", "solution") if isinstance(column := columns.names.get(name), str)]
    texts = (text for row in rows for column in named if isinstance(text := row.get(column), str))
    return any((worked := split_worked_answer(text)) is not None and worked.is_boxed for text in texts)


def _prompt(columns: Columns, row: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """Return the prompt, and what the assistant says behind it where the prompt is a whole chat."""
    prompt = columns.held(row, "prompt")
    context = columns.held(row, "context") if "context" in columns.names else None
    if prompt is None:
        raise refuse_no_prompt(columns, where)
    if isinstance(prompt, list):
        turns = [plain_turn(turn) for turn in as_messages(prompt)]
        last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
        return (turns[:-1], last.get("content")) if last.get("role") == "assistant" and len(turns) > 1 else (turns, None)
    if isinstance(prompt, str) and isinstance(context, str) and context.strip():
        follows = columns.names["context"] == "input"
        return "\n\n".join((prompt, context) if follows else (context.rstrip(), prompt)), None
    return prompt, None


def plain_turn(turn: Any) -> Any:
    """Return a turn of a chat without keys that hold null, and with its text where that comes in parts; anything else as it is."""
    if not isinstance(turn, Mapping):
        return turn
    held = {key: value for key, value in turn.items() if value is not None}
    parts = held.get("content")
    if (
        isinstance(parts, list)
        and parts
        and all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts)
    ):
        held["content"] = "".join(part["text"] for part in parts)
    return held


def usual_answers(row: Mapping[str, Any]) -> list[Any]:
    """Return what a row holds under the first usual name of answers that holds texts or numbers; nothing where there is none."""
    found = (read_answers(row.get(name)) for name in ("answer", *ALIASES["answer"]))
    return next((answers for answers in found if answers and all(as_text(one) is not None for one in answers)), [])


def read_answers(value: Any) -> list[Any]:
    """Return what is right: one text or number, or each of several; what is neither is left for the reader of rows to refuse."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):  # as SQuAD has it
        value = list(dict.fromkeys(value["text"]))
    if isinstance(value, Mapping) and isinstance(value.get("value"), str):  # as TriviaQA has it
        aliases = value.get("aliases")
        value = list(dict.fromkeys([value["value"], *(aliases if isinstance(aliases, list) else ())]))
    if isinstance(value, list) and value and all(as_text(one) is not None for one in value):
        return [as_text(one) for one in value]
    return [] if value in (None, []) else [value if as_text(value) is None else as_text(value)]


def _mix(question: str, answers: Sequence[Any], wrong: Any) -> list[Any]:
    """Return the answer and what is wrong in an order that follows from the question, so that no place is the right one more often."""
    found = list(wrong.values()) if isinstance(wrong, Mapping) else [wrong]
    texts = [*answers[:1], *(text for one in found if one is not None for text in read_answers(one))]
    return sorted(dict.fromkeys(texts), key=lambda text: hashlib.sha256(f"{question}\0{text}".encode()).digest())


def _chosen(prompt: Any, choices: Any, answers: list[Any], first_index: int, where: str) -> dict[str, Any]:
    texts, labels = read_choices(choices)
    question = prompt[-1].get("content") if isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping) else prompt
    if (
        not isinstance(question, str)
        or not 2 <= len(texts) <= len(LETTERS)
        or not all(as_text(text) is not None for text in texts)
    ):
        raise RowError(f"{where}: choices: got {shorten(choices)}; allowed: two texts or more, beside a question")
    texts = [str(as_text(text)) for text in texts]
    letters = [letter_of(answer, texts, labels, first_index) for answer in answers]
    if not letters or None in letters:
        raise RowError(
            f"{where}: the answer is {shorten(answers[0] if answers else None)}, which is none of the {len(texts)} choices; allowed: an index from 0, "
            "a label or a letter"
        )
    asked: Any = list_choices(question, texts)
    if isinstance(prompt, list):
        asked = [*prompt[:-1], {**prompt[-1], "content": asked}]
    found = {"prompt": asked, "answer": letters[0]}
    more = {"answers": letters[1:]} if len(letters) > 1 else {}
    return {**found, **more, "metadata": {"choices": [text.strip() for text in texts]}}
