"""Turns of chats as data sets write them: roles, texts or parts, tool calls, reasoning, and which turns are learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.diagnose.behaviors.row_files import RowError
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten, unknown
from posttrain.diagnose.types import Message

TRAIN_KEYS = ("weight", "train", "trainable")
"""Names for whether a turn is learned: OpenAI's, axolotl's and others'; 1 or true for yes, 0 or false for no."""
SPOKEN_KEYS = ("tool_calls", "reasoning_content", "reasoning", "thinking", "tool_plan")
"""What the assistant says beside its content; the chat template writes it."""
TEXT_KEYS = ("reasoning_content", "reasoning", "thinking", "tool_plan", "name", "tool_call_id")
TEMPLATE_KEYS = (*SPOKEN_KEYS, "name", "tool_call_id", "tool_responses")
TURN_KEYS = ("role", "content", *TEMPLATE_KEYS, *TRAIN_KEYS)
_SPEAKERS = {"human": "user", "gpt": "assistant"}
"""Who speaks in ShareGPT's turns → role, where the two have other names."""
CHAT_FORM = 'allowed: a text, or a chat as in [{"role": "user", "content": "..."}]'


def read_turns(value: Any, key: str, where: str) -> tuple[Message, ...]:
    """Return the turns of a chat.

    A key that holds null counts as absent: parquet has every key in every turn.

    Args:
        value: What the column holds.
        key: The name of the column, for error messages.
        where: The file and the row, for error messages.

    Raises:
        BehaviorError: It is no list of turns, or a turn has an unknown key, parts other than text, or flags that contradict each other.
    """
    if not isinstance(value, list) or not value:
        raise RowError(f"{where}: {key}: got {shorten(value)}; {CHAT_FORM}")
    return tuple(_read_turn(turn, f"{where}: {key}") for turn in value)


def as_messages(turns: Any) -> Any:
    """Return ShareGPT's turns as messages; anything else as it is."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and {"from", "value"} <= turn.keys() for turn in turns):
        return turns
    return [{"role": _SPEAKERS.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in turns]


def says_something(turn: Message) -> bool:
    """Return whether a turn holds a text, a tool call or reasoning."""
    return bool(turn.content.strip() or (turn.extra and any(json.loads(turn.extra).get(key) for key in SPOKEN_KEYS)))


def refuse_empty(turns: Sequence[Message], key: str, where: str) -> None:
    """Refuse turns that are learned and say nothing.

    Raises:
        RowError: One of them is empty.
    """
    for turn in turns:
        if not says_something(turn):
            raise RowError(
                f'{where}: {key}: got an empty turn of the assistant to learn; give it a text, or "weight": 0 so that it is not learned'
            )


def _read_turn(turn: Any, where: str) -> Message:
    if not (isinstance(turn, dict) and isinstance(turn.get("role"), str)):
        raise RowError(f"{where}: got the turn {shorten(turn)}; {CHAT_FORM}")
    held = {key: value for key, value in turn.items() if value is not None}
    for key in held:
        if key not in TURN_KEYS:
            raise BehaviorError(
                f"{where}: got a turn with {unknown('key', key, TURN_KEYS)}; rename it, or leave it out", code="unknown_turn_key"
            )
    extra = {key: held[key] for key in TEMPLATE_KEYS if key in held}
    for key, kind, form in (("tool_calls", list, "a list of objects"), *((key, str, "a text") for key in TEXT_KEYS)):
        if key in extra and not (
            isinstance(extra[key], kind) and (kind is str or all(isinstance(call, dict) for call in extra[key]))
        ):
            raise RowError(f"{where}: {key}: got {shorten(extra[key])}; allowed: {form}")
    content = held.get("content")
    if isinstance(content, list):
        extra["content"] = [{"type": "text", "text": text} for text in _texts(content, where)]
        content = "".join(part["text"] for part in extra["content"])
    elif content is None and any(held.get(key) for key in SPOKEN_KEYS):
        extra["content"], content = None, ""
    if not isinstance(content, str):
        raise RowError(f"{where}: got the turn {shorten(turn)}; {CHAT_FORM}")
    written = json.dumps(extra, ensure_ascii=False) if extra else ""
    return Message(held["role"], content, written, _is_learned(held, where))


def _texts(parts: Sequence[Any], where: str) -> list[str]:
    """Return the texts of a turn in parts."""
    for part in parts:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise BehaviorError(
                f'{where}: got the part {shorten(part)}; allowed are parts of text as in {{"type": "text", "text": "..."}}: only text is trained on',
                code="part_is_no_text",
            )
    return [part["text"] for part in parts]


def _is_learned(held: Mapping[str, Any], where: str) -> bool | None:
    """Return what a turn says of whether it is learned; None where it says nothing."""
    flags = {key: held[key] for key in TRAIN_KEYS if key in held}
    for key, value in flags.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise RowError(
                f"{where}: {key}: got {shorten(value)}; allowed: 1 or true (the turn is learned), 0 or false (it is not)"
            )
    values = {bool(value) for value in flags.values()}
    if len(values) > 1:
        raise RowError(f"{where}: got a turn with {', '.join(f'{k}: {v}' for k, v in flags.items())}; keep one of them")
    if True in values and held["role"] != "assistant":
        raise RowError(
            f"{where}: got a turn of {held['role']} with {next(iter(flags))}: {next(iter(flags.values()))}; only turns of the assistant are learned"
        )
    return next(iter(values), None)
