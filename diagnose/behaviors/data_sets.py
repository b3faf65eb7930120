"""Rows of a data set that a model might be trained on, in the shapes that TRL calls data set types.

Read are JSONL and parquet files of one shape: a text, a prompt alone, a prompt with a completion, a prompt with a better and a worse
completion, a prompt with a completion and a label, a prompt with labelled steps, or a chat. Prompts and completions are texts or chats;
columns that belong to no shape are passed over, as TRL does. The files that verl's SFT trainer reads (a chat, or a prompt with a response) fit
too. A wrong row is named with its place and never skipped.

Source: https://huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.row_files import RowError, read_objects, read_table, require_file
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Message

ALLOWED = (
    '{"prompt", "completion"}, {"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"}, {"prompt", "completions", "labels"}, '
    '{"messages"}, {"text"}, {"prompt"}, {"prompt", "response"} or {"question", "answer"}'
)

_UNREAD = ("tool_calls", "function_call", "reasoning_content", "thinking", "weight")
"""What a turn may hold beside its content that would change what is learned."""


class RowKind(StrEnum):
    """What a row offers to training."""

    TEXT = "text"
    """A text, all of which is learned."""
    PROMPT = "prompt"
    """A prompt alone; the answers come from a model."""
    DEMONSTRATION = "demonstration"
    """A prompt and an answer to imitate."""
    PAIR = "pair"
    """A prompt, a better and a worse answer."""
    LABELLED = "labelled"
    """A prompt and an answer that is called good or bad."""
    STEPS = "steps"
    """A prompt and an answer in steps, each of which is called right or wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRow:
    """One row of a data set."""

    index: int
    """Its place in the file, from 0; blank lines are not counted."""
    kind: RowKind
    prompt: str | tuple[Message, ...] | None
    """What stands before the answer; None for a text."""
    completion: str | None = None
    """The text, the demonstration or the labelled answer."""
    chat: tuple[Message, ...] = ()
    """The whole chat up to the last turn of the assistant, where several of its turns are to be learned; empty otherwise."""
    chosen: str | None = None
    rejected: str | None = None
    label: bool | None = None
    steps: tuple[str, ...] = ()
    """The answer step by step, as they are joined: each but the last ends with a line break."""
    labels: tuple[bool, ...] = ()
    """Whether each step is right."""


def read_training_rows(path: str | Path) -> tuple[DataRow, ...]:
    """Read a data set.

    Of a chat, the last turn of the assistant is the answer and everything before it the prompt; where the assistant spoke before, the whole
    chat is kept beside them. Turns after its last one are left out.

    Args:
        path: A JSONL file with one object per line, or a parquet file.

    Raises:
        BehaviorError: The file is missing, empty or neither of both, a row has none of the shapes or is not like the first one.
    """
    path = Path(path)
    rows: list[DataRow] = []
    for where, row in _objects(path):
        found = _read_row(row, len(rows), where)
        if rows and found.kind is not rows[0].kind:
            raise BehaviorError(
                f"{where}: got a row of kind {found.kind} after rows of kind {rows[0].kind}; give one file per kind",
                code="mixed_kinds",
            )
        rows.append(found)
    if not rows:
        raise BehaviorError(f"{path}: holds no rows; give rows such as {ALLOWED}", code="empty_file")
    return tuple(rows)


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return every row of a file, with the words that say where it stands."""
    wanted = f"a .jsonl or .parquet file of rows such as {ALLOWED}"
    require_file(path, wanted)
    if path.suffix == ".parquet":
        for batch in read_table(path, wanted).to_batches(max_chunksize=1024):
            for offset, row in enumerate(batch.to_pylist()):
                yield f"{path}: row {offset}", row
        return
    if path.suffix not in (".jsonl", ".json", ".ndjson"):
        raise BehaviorError(
            f"{path}: got a {path.suffix or 'nameless'} file; allowed: .jsonl (one object per line) and .parquet",
            code="unsupported_file",
        )
    for number, row in read_objects(path, wanted, f"such as {ALLOWED}"):
        yield f"{path}:{number}", row


def _read_row(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    """Find the shape of a row by the columns that hold something: parquet has a column for every key of any row."""
    held = {key for key, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= held:
        return _pair(row, index, where)
    if {"prompt", "completions", "labels"} <= held:
        return _steps(row, index, where)
    if {"prompt", "completion", "label"} <= held:
        prompt, completion = _prompt(row["prompt"], "prompt", where), _answer(row["completion"], "completion", where)
        if row["label"] not in (True, False):
            raise RowError(f"{where}: label: got {shorten(row['label'])}; allowed: true (a good answer) or false (a bad one)")
        return DataRow(index=index, kind=RowKind.LABELLED, prompt=prompt, completion=completion, label=bool(row["label"]))
    for asked, answered in (("prompt", "completion"), ("prompt", "response"), ("question", "answer")):
        if {asked, answered} <= held:
            prompt, completion = _prompt(row[asked], asked, where), _answer(row[answered], answered, where)
            return DataRow(index=index, kind=RowKind.DEMONSTRATION, prompt=prompt, completion=completion)
    if "messages" in held:
        return _whole_chat(_chat(row["messages"], "messages", where), index, where)
    if "text" in held:
        return DataRow(index=index, kind=RowKind.TEXT, prompt=None, completion=_answer(row["text"], "text", where))
    if "prompt" in held:
        return DataRow(index=index, kind=RowKind.PROMPT, prompt=_prompt(row["prompt"], "prompt", where))
    got = ", ".join(sorted(row)) or "nothing"
    raise BehaviorError(f"{where}: got the columns {got}; allowed are rows such as {ALLOWED}", code="unknown_columns")


def _whole_chat(chat: tuple[Message, ...], index: int, where: str) -> DataRow:
    said = [place for place, turn in enumerate(chat) if turn.role == "assistant" and place > 0]
    if not said:
        raise RowError(f"{where}: messages: no turn of the assistant follows a prompt; there must be an answer to learn")
    last = said[-1]
    return DataRow(
        index=index,
        kind=RowKind.DEMONSTRATION,
        prompt=chat[:last],
        completion=chat[last].content,
        chat=chat[: last + 1] if len(said) > 1 else (),
    )


def _pair(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    """Return a pair, whose prompt may be what both sides begin with."""
    sides = row["chosen"], row["rejected"]
    chats = all(isinstance(side, list) and len(side) > 1 for side in sides)
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"], "prompt", where)
        if not chats:
            chosen, rejected = (_answer(row[key], key, where) for key in ("chosen", "rejected"))
            return DataRow(index=index, kind=RowKind.PAIR, prompt=prompt, chosen=chosen, rejected=rejected)
        found = _pair_of_chats(row, index, where)
        assert isinstance(found.prompt, tuple)
        if prompt not in (found.prompt, found.prompt[-1].content):
            raise RowError(
                f"{where}: chosen and rejected are whole chats that do not begin with the prompt; drop the column prompt"
            )
        return found
    if all(isinstance(side, str) for side in sides):
        return _pair_of_texts(row, index, where)
    if any(isinstance(side, str) for side in sides):
        raise RowError(f"{where}: got a text and a chat for chosen and rejected; give two texts, or two whole chats")
    return _pair_of_chats(row, index, where)


def _pair_of_chats(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    better, worse = (_chat(row[key], key, where) for key in ("chosen", "rejected"))
    if len(better) < 2 or better[:-1] != worse[:-1]:
        raise RowError(f"{where}: chosen and rejected do not begin with the same prompt; give one, and one answer on each side")
    return DataRow(index=index, kind=RowKind.PAIR, prompt=better[:-1], chosen=better[-1].content, rejected=worse[-1].content)


def _pair_of_texts(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    """Take as the prompt what both texts begin with, cut at a blank, which goes with the answers."""
    better, worse = row["chosen"], row["rejected"]
    common = next(
        (place for place, pair in enumerate(zip(better, worse, strict=False)) if pair[0] != pair[1]), min(len(better), len(worse))
    )
    cut = max((place for place in range(common) if better[place].isspace()), default=0)
    if better == worse or not better[:cut].strip() or not better[cut:].strip() or not worse[cut:].strip():
        raise RowError(
            f"{where}: got chosen and rejected texts without a prompt, and they do not begin with the same words and go on differently; add a column "
            "prompt, or give both as whole chats"
        )
    return DataRow(index=index, kind=RowKind.PAIR, prompt=better[:cut], chosen=better[cut:], rejected=worse[cut:])


def _steps(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    steps, labels = row["completions"], row["labels"]
    if not (isinstance(steps, list) and steps and all(isinstance(step, str) and step for step in steps)):
        raise RowError(f"{where}: completions: got {shorten(steps)}; allowed: a list of texts, one per step")
    if not (isinstance(labels, list) and len(labels) == len(steps) and all(label in (True, False) for label in labels)):
        raise RowError(f"{where}: labels: got {shorten(labels)}; allowed: true or false for each of the {len(steps)} steps")
    joined = tuple(step if step.endswith("\n") or number == len(steps) - 1 else step + "\n" for number, step in enumerate(steps))
    return DataRow(
        index=index,
        kind=RowKind.STEPS,
        prompt=_prompt(row["prompt"], "prompt", where),
        completion="".join(joined),
        steps=joined,
        labels=tuple(map(bool, labels)),
    )


def _prompt(value: Any, key: str, where: str) -> str | tuple[Message, ...]:
    if isinstance(value, str) and value.strip():
        return value
    return _chat(value, key, where)


def _answer(value: Any, key: str, where: str) -> str:
    """Return a text, or the only turn of a chat."""
    if isinstance(value, list):
        turns = _chat(value, key, where)
        if len(turns) != 1:
            raise RowError(f"{where}: {key}: got {len(turns)} turns; allowed: a text, or a chat of one turn")
        value = turns[0].content
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where}: {key}: got {shorten(value)}; allowed: a text, or a chat of one turn")
    return value


def _chat(value: Any, key: str, where: str) -> tuple[Message, ...]:
    allowed = 'allowed: a text, or a chat as in [{"role": "user", "content": "..."}]'
    if not isinstance(value, list) or not value:
        raise RowError(f"{where}: {key}: got {shorten(value)}; {allowed}")
    for turn in value:
        if not (isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise RowError(f"{where}: {key}: got the turn {shorten(turn)}; {allowed}")
        for part in _UNREAD:
            if turn.get(part):
                raise BehaviorError(
                    f"{where}: {key}: got a turn with {part}, which is not read; write it into content as the model would, or leave it out",
                    code="unread_part",
                )
    return tuple(Message(turn["role"], turn["content"]) for turn in value)
