"""Problems from a file of rows, read strictly: a wrong row is named with its line and never skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.diagnose.behaviors.column_names import OWN_COLUMNS, find_columns, refuse_samples
from posttrain.diagnose.behaviors.published_layouts import Layout, convert_row, find_layout
from posttrain.diagnose.behaviors.row_contents import SPLITS_OF_OTHERS, as_text, convert_columns, holds_boxes, lines_as_steps
from posttrain.diagnose.behaviors.row_files import ROW_FILES, RowError, read_objects, row_suffix
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten, unknown
from posttrain.diagnose.types import Message, Reference, Split

ROLES = ("system", "user", "assistant")
_SPLITS = {split.value: split for split in Split}
_TEXTS = ("answer", "id", "group", "key", "hint")


class Row(NamedTuple):
    """One line of a problem file, before splits are made; the fields are those of `Problem`."""

    id: str
    prompt: str | tuple[Message, ...]
    answer: str
    """Empty where the row has none."""
    references: tuple[Reference, ...] = ()
    group: str | None = None
    split: Split | None = None
    key: str | None = None
    hint: str | None = None
    metadata: Mapping[str, Any] = {}
    answers: tuple[str, ...] = ()


class ProblemFile(NamedTuple):
    """What a problem file holds."""

    rows: tuple[Row, ...]
    layout: Layout | None = None
    """Whose published layout its rows have; None for our own and for columns that were found one by one."""
    places: Mapping[str, str] = {}
    """File and line of each row, by its id; for error messages."""
    columns: str = ""
    """What was understood of columns that are not ours, in one line."""
    origin: str = ""
    """Which part of a data set was read, where the user did not say it; one line."""
    verifier: str | None = None
    """The kind that fits what the rows hold; None where the answers decide."""


def read_problems(path: Path, columns: Mapping[str, str] | None = None) -> ProblemFile:
    """Read a problem file.

    Args:
        path: A file of rows: our own, those of one of the published layouts, or with columns of usual names. An absent id becomes `row-<line>`.
        columns: Our name → column, where the user says it.

    Raises:
        BehaviorError: If the file is missing or empty, or a row is wrong; the message names file and line.
    """
    objects = read_objects(path, f"a {ROW_FILES} file of problems", f"with the keys {', '.join(OWN_COLUMNS)}")
    return read_problem_objects(objects, "line" if row_suffix(path) == ".jsonl" else "row", str(path), columns)


def read_problem_objects(
    objects: Iterable[tuple[int, str, Mapping[str, Any]]], place: str, source: str, columns: Mapping[str, str] | None = None
) -> ProblemFile:
    """Read rows of one layout, which the first one decides.

    Args:
        objects: Number, file and place, and content of each row.
        place: What the numbers count, for error messages.
        source: Where they come from, for error messages.
        columns: Our name → column, where the user says it; then published layouts are not looked for.

    Raises:
        BehaviorError: There is none, a row is wrong, or two have the same id.
    """
    objects = list(objects)
    if not objects:
        raise BehaviorError(
            f'{source}: the file is empty; write one problem per line, as in {{"prompt": "2+2?", "answer": "4"}}',
            code="empty_file",
        )
    if not columns:
        refuse_samples(objects[0][2], objects[0][1])
    layout = None if columns else find_layout(objects[0][2])
    found = find_columns(objects, columns or {}) if layout is None else None
    verifier = layout.verifier if layout is not None else None
    if found is not None and ("choices" in found.names or "wrong" in found.names):
        verifier = "choice"
    elif found is not None and holds_boxes(found, (row for _, _, row in objects)):
        verifier = "math"
    rows: list[Row] = []
    places: dict[str, str] = {}
    for number, where, content in objects:
        if layout is not None:
            converted = convert_row(layout, content, where)
        else:
            assert found is not None
            converted = convert_columns(found, content, where)
        row = _read_row(converted, number, where)
        if row.id in places:
            earlier = next(number for (number, _, _), other in zip(objects, rows, strict=False) if other.id == row.id)
            raise BehaviorError(
                f"{where}: id {row.id!r} was already used in {place} {earlier}; ids must differ", code="duplicate_id"
            )
        places[row.id] = where
        rows.append(row)
    note = "" if found is None else found.note
    return ProblemFile(tuple(rows), layout, places, columns=note, verifier=verifier)


def _read_row(row: Mapping[str, Any], number: int, where: str) -> Row:
    texts = {key: _text(row, key, where) for key in _TEXTS if key in row}
    answer, further = texts.get("answer"), _answers(row.get("answers"), where)
    accepted = tuple(dict.fromkeys((answer, *further) if answer is not None else further))
    metadata = row.get("metadata")
    if not (metadata is None or isinstance(metadata, dict)):
        raise RowError(f"{where}: metadata: got {shorten(metadata)}; allowed: an object")
    return Row(
        id=texts.get("id") or f"row-{number}",
        prompt=read_prompt(row["prompt"], where),
        answer=accepted[0] if accepted else "",
        references=_references(row.get("references"), where),
        group=texts.get("group"),
        split=_split(row.get("split"), where),
        key=texts.get("key"),
        hint=texts.get("hint"),
        metadata=metadata or {},
        answers=accepted[1:],
    )


def _answers(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [as_text(answer) or "" for answer in value] if isinstance(value, list) else []
    if not texts or not all(text.strip() for text in texts):
        raise RowError(f"{where}: answers: got {shorten(value)}; allowed: a list of texts, each of which is right")
    return tuple(texts)


def _text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    text = as_text(value)
    if text is None:
        instead = "; write it as the word that is right, such as yes or true" if isinstance(value, bool) else ""
        raise RowError(f"{where}: {key}: got {shorten(value)}; allowed: a text or a number{instead}")
    if not text.strip():
        raise RowError(f"{where}: {key}: got an empty string; allowed: a text")
    return text


def read_prompt(value: Any, where: str) -> str | tuple[Message, ...]:
    """Return a text, or a chat that ends with the user.

    Raises:
        BehaviorError: It is neither.
    """
    allowed = 'allowed: a text, or a chat as in [{"role": "user", "content": "..."}] that ends with the user'
    if isinstance(value, str) and value.strip():
        return value
    if not isinstance(value, list) or not value:
        raise RowError(f"{where}: prompt: got {shorten(value)}; {allowed}")
    messages = []
    for turn in value:
        if not (isinstance(turn, dict) and set(turn) == {"role", "content"} and all(isinstance(v, str) for v in turn.values())):
            raise RowError(f"{where}: prompt: got the turn {shorten(turn)}; {allowed}")
        if turn["role"] not in ROLES:
            raise BehaviorError(f"{where}: prompt: {unknown('role', turn['role'], ROLES)}", code="unknown_role")
        messages.append(Message(turn["role"], turn["content"]))
    if messages[-1].role != "user" or not messages[-1].content.strip():
        raise RowError(f"{where}: prompt: the last turn is {shorten(value[-1])}; {allowed}")
    return tuple(messages)


def _split(value: Any, where: str) -> Split | None:
    if value is None:
        return None
    value = SPLITS_OF_OTHERS.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, str) or value not in _SPLITS:
        raise BehaviorError(f"{where}: {unknown('split', str(value), _SPLITS)}", code="unknown_split")
    return _SPLITS[value]


def _references(value: Any, where: str) -> tuple[Reference, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RowError(f"{where}: references: got {shorten(value)}; allowed: a list, with one entry per path")
    return tuple(_reference(path, where) for path in value)


def _reference(value: Any, where: str) -> Reference:
    allowed = 'allowed: a text, a list of steps (one per line), or {"steps": [...], "joiner": " "}'
    joiner = "\n"
    steps = value
    if isinstance(value, str) and value.strip():
        return Reference(steps=tuple(lines_as_steps(value)))
    if isinstance(value, dict):
        if not set(value) <= {"steps", "joiner"} or not isinstance(value.get("joiner", ""), str):
            raise RowError(f"{where}: references: got {shorten(value)}; {allowed}")
        steps, joiner = value.get("steps"), value.get("joiner", "\n")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise RowError(f"{where}: references: got {shorten(value)}; {allowed}")
    return join_steps(steps, joiner)


def join_steps(steps: list[str] | tuple[str, ...], joiner: str) -> Reference:
    """Make a path of steps; the joiner belongs to the end of each step but the last."""
    return Reference(steps=(*(step + joiner for step in steps[:-1]), steps[-1]))
