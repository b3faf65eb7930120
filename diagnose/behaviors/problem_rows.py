"""Problems from a JSONL, JSON or CSV file, read strictly: a wrong row is named with its line and never skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.diagnose.behaviors.published_layouts import Layout, convert_row, find_layout
from posttrain.diagnose.behaviors.row_files import ROW_FILES, RowError, read_objects, row_suffix
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten, unknown
from posttrain.diagnose.types import Message, Reference, Split

ROLES = ("system", "user", "assistant")


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
    """Whose published layout its rows have; None for our own and verl's."""
    places: Mapping[str, str] = {}
    """File and line of each row, by its id; for error messages."""


def read_problems(path: Path) -> ProblemFile:
    """Read a problem file.

    Args:
        path: A JSONL, JSON or CSV file of our own rows or of one of the published layouts; blank lines are allowed, an absent id becomes `row-<line>`.

    Raises:
        BehaviorError: If the file is missing or empty, or a row is wrong; the message names file and line.
    """
    objects = read_objects(path, f"a {ROW_FILES} file of problems", f"with the keys {', '.join(Row._fields)}")
    found = read_problem_objects(objects, "line" if row_suffix(path) == ".jsonl" else "row")
    if not found.rows:
        raise BehaviorError(
            f'{path}: the file is empty; write one problem per line, as in {{"prompt": "2+2?", "answer": "4"}}', code="empty_file"
        )
    return found


def read_problem_objects(objects: Iterable[tuple[int, str, Mapping[str, Any]]], place: str) -> ProblemFile:
    """Read rows of one layout, which the first one decides.

    Args:
        objects: Number, file and place, and content of each row.
        place: What the numbers count, for error messages.

    Raises:
        BehaviorError: A row is wrong, or two have the same id.
    """
    rows: list[Row] = []
    numbers: dict[str, int] = {}
    places: dict[str, str] = {}
    layout: Layout | None = None
    for number, where, content in objects:
        if not rows:
            layout = find_layout(content)
        row = _read_row(content if layout is None else convert_row(layout, content, where), number, where)
        if row.id in numbers:
            raise BehaviorError(
                f"{where}: id {row.id!r} was already used in {place} {numbers[row.id]}; ids must differ", code="duplicate_id"
            )
        numbers[row.id], places[row.id] = number, where
        rows.append(row)
    return ProblemFile(tuple(rows), layout, places)


def _read_row(row: Mapping[str, Any], number: int, where: str) -> Row:
    for key in row:
        if key not in Row._fields:
            raise BehaviorError(
                f"{where}: {unknown('key', key, Row._fields)}; what belongs to nothing goes into metadata", code="unknown_key"
            )
    if row.get("prompt") is None:
        raise BehaviorError(f"{where}: the row has no prompt; every row needs a prompt", code="missing_key")
    answer = _text(row, "answer", where)
    accepted = tuple(dict.fromkeys((*([] if answer is None else [answer]), *_answers(row.get("answers"), where))))
    metadata = row.get("metadata")
    if not (metadata is None or isinstance(metadata, dict)):
        raise RowError(f"{where}: metadata: got {shorten(metadata)}; allowed: an object")
    return Row(
        id=_text(row, "id", where) or f"row-{number}",
        prompt=read_prompt(row["prompt"], where),
        answer=accepted[0] if accepted else "",
        references=_references(row.get("references"), where),
        group=_text(row, "group", where),
        split=_split(row.get("split"), where),
        key=_text(row, "key", where),
        hint=_text(row, "hint", where),
        metadata=metadata or {},
        answers=accepted[1:],
    )


def _answers(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value or not all(isinstance(answer, str) and answer.strip() for answer in value):
        raise RowError(f"{where}: answers: got {shorten(value)}; allowed: a list of texts, each of which is right")
    return tuple(value)


def _text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        hint = f', so write "{value}"' if isinstance(value, int | float) and not isinstance(value, bool) else ""
        raise RowError(f"{where}: {key}: got {shorten(value)}; allowed: a string{hint}")
    if not value.strip():
        raise RowError(f"{where}: {key}: got an empty string; allowed: a text")
    return value


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
    if value not in [split.value for split in Split]:
        raise BehaviorError(f"{where}: {unknown('split', str(value), [split.value for split in Split])}", code="unknown_split")
    return Split(value)


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
    if isinstance(value, str):
        steps = [value]
    elif isinstance(value, dict):
        if not set(value) <= {"steps", "joiner"} or not isinstance(value.get("joiner", ""), str):
            raise RowError(f"{where}: references: got {shorten(value)}; {allowed}")
        steps, joiner = value.get("steps"), value.get("joiner", "\n")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise RowError(f"{where}: references: got {shorten(value)}; {allowed}")
    return join_steps(steps, joiner)


def join_steps(steps: list[str] | tuple[str, ...], joiner: str) -> Reference:
    """Make a path of steps; the joiner belongs to the end of each step but the last."""
    return Reference(steps=(*(step + joiner for step in steps[:-1]), steps[-1]))
