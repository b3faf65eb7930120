"""Rows of a data set that a model might be trained on, in the shapes that TRL calls data set types.

Read are files of rows (JSONL, JSON, CSV, TSV, parquet) and data sets (`hf:NAME[:CONFIG][:SPLIT]`) of one shape: a text, a prompt alone, a prompt with a completion, a prompt with a better and a worse
completion, a prompt with a completion and a label, a prompt with labelled steps, or a chat. Prompts and completions are texts or chats; the column `system` holds a
system message before them, and other columns that belong to no shape are passed over, as TRL does. The files that verl's SFT trainer reads
(a chat, or a prompt with a response), Alpaca's and ShareGPT's rows fit too. A wrong row is named with its place and never skipped.

Source: https://huggingface.co/docs/trl/dataset_formats.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from posttrain.diagnose.behaviors.chat_turns import as_messages, read_turns, refuse_empty
from posttrain.diagnose.behaviors.column_names import say_renaming
from posttrain.diagnose.behaviors.hub_data import FORM
from posttrain.diagnose.behaviors.row_files import ROW_FILES, RowError
from posttrain.diagnose.behaviors.row_sources import RowSource, read_row_source
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Message, PromptFormat, Split

ALLOWED = (
    '{"prompt", "completion"}, {"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"}, {"prompt", "completions", "labels"}, '
    '{"messages"}, {"text"}, {"prompt"}, {"prompt", "response"}, {"question", "answer"}, {"problem", "solution"}, {"instruction", "output"} or '
    '{"conversations"}'
)


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
    """The whole chat up to the last turn that is learned, where it is more than a prompt and one turn with a text; empty otherwise."""
    chosen: str | None = None
    rejected: str | None = None
    label: bool | None = None
    steps: tuple[str, ...] = ()
    """The answer step by step, as they are joined: each but the last ends with a line break."""
    labels: tuple[bool, ...] = ()
    """Whether each step is right."""
    turns: Mapping[str, tuple[Message, ...]] = field(default_factory=dict)
    """The `completion`, `chosen` and `rejected` answers as turns, where they are more than one turn with a text."""
    tools: tuple[Any, ...] = ()
    """Schemas of the tools that the chat template shows."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template."""
    weight: float = 1.0
    """How much the row counts in training; 0 leaves it out."""
    margin: float = 0.0
    """Of a pair: by how much the reward of the better answer is to exceed the other's."""
    passed_over: frozenset[str] = field(default=frozenset(), compare=False)
    """Columns that hold something and are not read."""

    def format_of_prompt(self, prompt_format: PromptFormat) -> PromptFormat:
        """Return a prompt format with this row's tools and template arguments, where it has any."""
        if not self.tools and not self.template_arguments:
            return prompt_format
        tools, arguments = (
            json.dumps(held, ensure_ascii=False, default=str) if held else "" for held in (self.tools, self.template_arguments)
        )
        return replace(prompt_format, tools=tools, template_arguments=arguments)


_DEMONSTRATIONS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("problem", "solution"),
    ("query", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
)
"""Columns of a prompt and of an answer to imitate."""
_SHAPES: tuple[tuple[RowKind, frozenset[str]], ...] = (
    (RowKind.PAIR, frozenset({"chosen", "rejected"})),
    (RowKind.STEPS, frozenset({"prompt", "completions", "labels"})),
    (RowKind.LABELLED, frozenset({"prompt", "completion", "label"})),
    *((RowKind.DEMONSTRATION, frozenset(columns)) for columns in _DEMONSTRATIONS),
    (RowKind.DEMONSTRATION, frozenset({"messages"})),
    (RowKind.DEMONSTRATION, frozenset({"conversations"})),
    (RowKind.TEXT, frozenset({"text"})),
    (RowKind.PROMPT, frozenset({"prompt"})),
)
"""What a row is, by the columns that it holds; the first that fits."""
_BESIDE = frozenset({"system", "weight"})
"""Columns that are read beside those of any shape."""
_FOR_TEMPLATES = frozenset({"tools", "chat_template_kwargs"})


def read_training_rows(source: RowSource, wanted: frozenset[RowKind] = frozenset()) -> tuple[DataRow, ...]:
    """Read a data set.

    Of a chat, the last turn of the assistant that is learned is the answer and everything before it the prompt; where the assistant spoke
    before, the whole chat is kept beside them. Turns after it are left out. A turn with `weight: 0`, `train: false` or `trainable: false` is
    shown and not learned. The columns `tools` and `chat_template_kwargs` go to the chat template, as in TRL.

    Args:
        source: A file of rows, or `hf:NAME[:CONFIG][:SPLIT]`, of which the split `train` is read where none is named; `MappedRows` says which column
            holds what.
        wanted: The kinds that a stage learns from. Rows are read as one of these where their columns allow it: a column `label` that names a
            category, or `chosen` beside `messages`, does not stop a stage that imitates. Where they do not, or none is given, rows are what their columns
            say first.

    Raises:
        BehaviorError: The rows are missing, or none, or in a file of another kind, a row has none of the shapes or is not like the first one.
    """
    rows: list[DataRow] = []
    objects = read_row_source(source, f"a {ROW_FILES} file of rows, or {FORM}, with rows such as {ALLOWED}", f"such as {ALLOWED}")
    for where, row in objects:
        _refuse_measured(row, where)
        columns = _columns(row, wanted, where)
        found = _with_system(_read_row(row, columns, len(rows), where), row, where)
        read = columns | _BESIDE
        if found.kind is not RowKind.TEXT:  # a template writes no texts
            found, read = _with_template_columns(found, row, where), read | _FOR_TEMPLATES
        if found.kind is RowKind.PAIR:
            read |= {"prompt", "margin"}
        if "instruction" in columns:
            read |= {"input"}
        found = replace(_with_numbers(found, row, where), passed_over=_held(row) - read)
        if rows and found.kind is not rows[0].kind:
            raise BehaviorError(
                f"{where}: got a row of kind {found.kind} after rows of kind {rows[0].kind}; give one file per kind",
                code="mixed_kinds",
            )
        rows.append(found)
    if not rows:
        raise BehaviorError(f"{source}: holds no rows; give rows such as {ALLOWED}", code="empty_file")
    return tuple(rows)


def _refuse_measured(row: Mapping[str, Any], where: str) -> None:
    """Refuse a row that says that it is measured: a row of a problem file of ours, such as that of an imported run."""
    if (split := row.get("split")) in (Split.EVAL, Split.FINAL):
        raise BehaviorError(
            f"{where}: split: got {split}, which says that the row is measured, and measured problems are never trained on; give rows of the train split, or "
            "import with --split train where they are for that",
            code="measured_row",
        )


def _held(row: Mapping[str, Any]) -> frozenset[str]:
    """Return the columns that hold something: parquet has a column for every key of any row."""
    return frozenset(key for key, value in row.items() if value is not None)


def _columns(row: Mapping[str, Any], wanted: frozenset[RowKind], where: str) -> frozenset[str]:
    """Return the columns that give a row its shape."""
    held = _held(row)
    label, imitated = row.get("label"), RowKind.DEMONSTRATION in wanted and RowKind.LABELLED not in wanted
    if imitated and label is False and {"prompt", "completion"} <= held:
        raise RowError(
            f"{where}: label: got false, which calls the answer bad, and the stage imitates it; leave out such rows, or use kto"
        )
    if imitated or not (RowKind.LABELLED in wanted or label in (True, False)):
        held -= {"label"}  # a category, not a verdict on the answer
    shapes = [(kind, columns) for kind, columns in _SHAPES if columns <= held]
    fitting = [columns for kind, columns in shapes if kind in wanted] or [columns for _, columns in shapes]
    return fitting[0] if fitting else held


def _read_row(row: Mapping[str, Any], held: frozenset[str], index: int, where: str) -> DataRow:
    """Read a row by the columns that give it its shape."""
    if {"chosen", "rejected"} <= held:
        return _pair(row, index, where)
    if {"prompt", "completions", "labels"} <= held:
        return _steps(row, index, where)
    if {"prompt", "completion", "label"} <= held:
        prompt, (completion, turns) = _prompt(row["prompt"], "prompt", where), _answer(row["completion"], "completion", where)
        if row["label"] not in (True, False):
            raise RowError(f"{where}: label: got {shorten(row['label'])}; allowed: true (a good answer) or false (a bad one)")
        return DataRow(
            index=index, kind=RowKind.LABELLED, prompt=prompt, completion=completion, label=bool(row["label"]), turns=turns
        )
    for asked, answered in _DEMONSTRATIONS:
        if {asked, answered} <= held:
            prompt, (completion, turns) = _prompt(_with_input(row, asked), asked, where), _answer(row[answered], answered, where)
            if turns:
                turns = {"completion": turns[answered]}
            return DataRow(index=index, kind=RowKind.DEMONSTRATION, prompt=prompt, completion=completion, turns=turns)
    if "messages" in held:
        return _whole_chat(read_turns(row["messages"], "messages", where), index, where)
    if "conversations" in held:
        return _whole_chat(read_turns(as_messages(row["conversations"]), "conversations", where), index, where)
    if "text" in held:
        return DataRow(index=index, kind=RowKind.TEXT, prompt=None, completion=_text(row["text"], "text", where))
    if "prompt" in held:
        return DataRow(index=index, kind=RowKind.PROMPT, prompt=_prompt(row["prompt"], "prompt", where))
    got = ", ".join(sorted(row)) or "nothing"
    raise BehaviorError(
        f"{where}: got the columns {got}; allowed are rows such as {ALLOWED}; {say_renaming(list(row))}", code="unknown_columns"
    )


def _with_input(row: Mapping[str, Any], asked: str) -> Any:
    """Return what is asked; in Alpaca's rows the column `input` stands behind the instruction."""
    given = row.get("input")
    return f"{row[asked]}\n\n{given}" if asked == "instruction" and isinstance(given, str) and given.strip() else row[asked]


def _with_system(found: DataRow, row: Mapping[str, Any], where: str) -> DataRow:
    """Put the column `system`, which many data sets have beside a prompt or a chat, before both as a system message."""
    said = row.get("system")
    if said is None or said == "":
        return found
    first = found.prompt[0] if isinstance(found.prompt, tuple) else None
    if not isinstance(said, str) or found.prompt is None or (first is not None and first.role == "system"):
        got = "a text without a prompt" if found.prompt is None else "a chat with a system message of its own"
        beside = shorten(said) if not isinstance(said, str) else f"a text beside {got}"
        raise RowError(f"{where}: system: got {beside}; allowed: a text beside a prompt without a system message")
    before = Message("system", said)
    prompt = found.prompt if isinstance(found.prompt, tuple) else (Message("user", found.prompt),)
    return replace(found, prompt=(before, *prompt), chat=(before, *found.chat) if found.chat else ())


def _with_template_columns(found: DataRow, row: Mapping[str, Any], where: str) -> DataRow:
    """Add what goes to the chat template: TRL's columns `tools` (a list, or its JSON) and `chat_template_kwargs`."""
    tools, arguments = row.get("tools"), row.get("chat_template_kwargs")
    if isinstance(tools, str):
        with contextlib.suppress(ValueError):
            tools = json.loads(tools)
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise RowError(f"{where}: tools: got {shorten(tools)}; allowed: a list of JSON schemas, or such a list as a JSON text")
    if arguments is not None and not (isinstance(arguments, dict) and all(isinstance(key, str) for key in arguments)):
        raise RowError(
            f"{where}: chat_template_kwargs: got {shorten(arguments)}; allowed: an object of variables for the chat template"
        )
    if not tools and not arguments:
        return found
    return replace(
        found, tools=tuple(tools or ()), template_arguments={k: v for k, v in (arguments or {}).items() if v is not None}
    )


def _with_numbers(found: DataRow, row: Mapping[str, Any], where: str) -> DataRow:
    """Add the weight of a row and the margin of a pair."""
    weight, margin = row.get("weight"), row.get("margin") if found.kind is RowKind.PAIR else None
    if weight is not None and not (_is_number(weight) and weight >= 0):
        raise RowError(
            f"{where}: weight: got {shorten(weight)}; allowed: a number from 0 on, how much the row counts; rename the column if it says something else"
        )
    if weight not in (None, 1) and found.kind is RowKind.PROMPT:
        raise RowError(f"{where}: weight: got {shorten(weight)} beside a prompt alone, whose samples count alike; leave it out")
    if margin is not None and not _is_number(margin):
        raise RowError(
            f"{where}: margin: got {shorten(margin)}; allowed: a finite number, by how much the reward of the chosen answer is to exceed the other's; "
            "rename the column if it says something else"
        )
    if weight is None and margin is None:
        return found
    return replace(found, weight=1.0 if weight is None else float(weight), margin=float(margin or 0))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole_chat(chat: tuple[Message, ...], index: int, where: str) -> DataRow:
    if chat[0].role == "assistant" and chat[0].train:
        raise RowError(f"{where}: messages: the first turn is to be learned and nothing stands before it; begin with a prompt")
    said = [place for place, turn in enumerate(chat) if turn.role == "assistant" and place > 0]
    learned = [place for place in said if chat[place].train is not False]
    if not learned:
        got = "every turn of the assistant has weight 0" if said else "no turn of the assistant follows a prompt"
        raise RowError(f"{where}: messages: {got}; there must be an answer to learn")
    refuse_empty([chat[place] for place in learned], "messages", where)
    last = learned[-1]
    plain = len([place for place in said if place <= last]) == 1 and not chat[last].extra
    return DataRow(
        index=index,
        kind=RowKind.DEMONSTRATION,
        prompt=chat[:last],
        completion=chat[last].content,
        chat=() if plain else chat[: last + 1],
    )


def _pair(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    """Return a pair, whose prompt may be what both sides begin with."""
    sides = row["chosen"], row["rejected"]
    chats = all(isinstance(side, list) and len(side) > 1 for side in sides)
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"], "prompt", where)
        if not (chats and _begins_with_prompt(row, prompt, where)):
            chosen, better = _answer(row["chosen"], "chosen", where)
            rejected, worse = _answer(row["rejected"], "rejected", where)
            return DataRow(
                index=index, kind=RowKind.PAIR, prompt=prompt, chosen=chosen, rejected=rejected, turns={**better, **worse}
            )
        return _pair_of_chats(row, index, where)
    if all(isinstance(side, str) for side in sides):
        return _pair_of_texts(row, index, where)
    if any(isinstance(side, str) for side in sides):
        raise RowError(f"{where}: got a text and a chat for chosen and rejected; give two texts, or two whole chats")
    return _pair_of_chats(row, index, where)


def _begins_with_prompt(row: Mapping[str, Any], prompt: str | tuple[Message, ...], where: str) -> bool:
    """Return whether both sides repeat the prompt; False where both go on after it, which begins with the assistant.

    Raises:
        RowError: Neither.
    """
    better, worse = (read_turns(row[key], key, where) for key in ("chosen", "rejected"))
    shared = better[: _num_shared(better, worse)]
    if prompt in (shared, shared[-1].content if shared else None):
        return True
    if better[0].role != "user" and worse[0].role != "user" and not shared:
        return False
    raise RowError(f"{where}: chosen and rejected are whole chats that do not begin with the prompt; drop the column prompt")


def _num_shared(better: Sequence[Message], worse: Sequence[Message]) -> int:
    """Return how many turns two chats begin with in common."""
    pairs = zip(better, worse, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(better), len(worse)))


def _pair_of_chats(row: Mapping[str, Any], index: int, where: str) -> DataRow:
    better, worse = (read_turns(row[key], key, where) for key in ("chosen", "rejected"))
    num = _num_shared(better, worse)
    if better == worse and len(better) > 1:  # two equal answers; TRL, too, keeps them
        num = len(better) - 1
    if not num or num in (len(better), len(worse)):
        raise RowError(
            f"{where}: chosen and rejected do not begin with the same prompt; give one, and an answer of its own on each side"
        )
    (chosen, one), (rejected, other) = (
        _answer_turns(side[num:], key, where) for side, key in ((better, "chosen"), (worse, "rejected"))
    )
    return DataRow(index=index, kind=RowKind.PAIR, prompt=better[:num], chosen=chosen, rejected=rejected, turns={**one, **other})


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
    turns = read_turns(value, key, where)
    if any(turn.train for turn in turns):
        raise RowError(
            f"{where}: {key}: a turn of the prompt is to be learned; move it to the completion, or give the chat as messages"
        )
    return turns


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{where}: {key}: got {shorten(value)}; allowed: a text, or a chat that ends with the assistant")
    return value


def _answer(value: Any, key: str, where: str) -> tuple[str, dict[str, tuple[Message, ...]]]:
    """Return an answer as a text, and as turns where it is more than one turn with a text."""
    return _answer_turns(read_turns(value, key, where), key, where) if isinstance(value, list) else (_text(value, key, where), {})


def _answer_turns(turns: tuple[Message, ...], key: str, where: str) -> tuple[str, dict[str, tuple[Message, ...]]]:
    if turns[-1].role != "assistant":
        raise RowError(f"{where}: {key}: the last turn is one of {turns[-1].role}; an answer ends with the assistant")
    said = [turn for turn in turns if turn.role == "assistant"]
    learned = [turn for turn in said if turn.train is not False]
    if not learned:
        raise RowError(f"{where}: {key}: every turn of the assistant has weight 0; there must be an answer to learn")
    refuse_empty(learned, key, where)
    plain = len(turns) == 1 and not turns[0].extra
    return "\n".join(turn.content for turn in said), {} if plain else {key: turns}
