"""Chats as other tools store them: OpenAI's chat messages, and the items of its Responses API.

What a model wrote is kept as it is: unlike rows of a data set, which are refused where they are wrong, a message may hold what no template reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Message

Prompt = str | tuple[Message, ...]

ASSISTANT = "assistant"
_FORM = 'allowed is a text, or a list of messages such as [{"role": "user", "content": "..."}]'
_KEPT = ("tool_calls", "reasoning_content", "reasoning", "name", "tool_call_id")
"""What is kept of a message beside its role and its text."""


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Return the messages of a chat; a text is one message of the assistant.

    Raises:
        SourceError: It is no chat (`invalid_messages`).
    """
    if isinstance(value, str):
        return (Message(ASSISTANT, value),)
    if not isinstance(value, list | tuple):
        raise SourceError(f"{where}: got {shorten(value)}; {_FORM}", code="invalid_messages")
    return tuple(_read_message(one, where) for one in value)


def read_prompt(value: Any, where: str) -> Prompt | None:
    """Return a prompt: a text, or the messages of a chat; None where there is none.

    Raises:
        SourceError: It is neither (`invalid_messages`).
    """
    return value if value is None or isinstance(value, str) else read_messages(value, where) or None


def find_prompt(value: Any, where: str) -> Prompt | None:
    """Return a prompt as `read_prompt` does; None where there is neither a text nor a list.

    Raises:
        SourceError: The list is no chat (`invalid_messages`).
    """
    return read_prompt(value, where) if isinstance(value, str | list) else None


def _read_message(value: Any, where: str) -> Message:
    if isinstance(value, str):  # a tool call or a message that its writer has stored as JSON text
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        raise SourceError(f"{where}: got the message {shorten(value)}; {_FORM}", code="invalid_messages")
    extra = {key: value[key] for key in _KEPT if value.get(key)}
    if isinstance(extra.get("tool_calls"), list):
        extra["tool_calls"] = [_nested(call) for call in extra["tool_calls"]]
    content = value.get("content")
    if isinstance(content, list) and any(not _is_text(part) for part in content):
        extra["content"] = content
    return Message(value["role"], text_of(content), json.dumps(extra, ensure_ascii=False, default=str) if extra else "")


def _nested(call: Any) -> Any:
    """Return a call of a tool as chat templates read it, with name and arguments under `function`."""
    if isinstance(call, str):  # as verifiers stored them before its version 1
        try:
            call = json.loads(call)
        except ValueError:
            return call
    if not isinstance(call, Mapping) or "function" in call or "name" not in call:
        return call
    kept = {"id": call.get("id"), "type": "function"} if call.get("id") else {"type": "function"}
    return {**kept, "function": {"name": call["name"], "arguments": call.get("arguments", "")}}


def text_of(content: Any) -> str:
    """Return the text of a message, or of its parts one after the other; parts that are no text are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(part if isinstance(part, str) else _part_text(part) for part in content)
    return ""


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _part_text(part: Any) -> str:
    found = (part.get("text") or part.get("refusal")) if isinstance(part, Mapping) else None
    return found if isinstance(found, str) else ""


def read_items(items: Any, where: str) -> tuple[Message, ...]:
    """Return the items of OpenAI's Responses API as messages of a chat.

    Reasoning and calls of tools belong to the assistant's message that they stand beside: consecutive items of the model are one turn until a tool or
    a user answers.

    Raises:
        SourceError: They are no such items (`invalid_messages`).
    """
    if isinstance(items, str):
        return (Message("user", items),)
    if not isinstance(items, list):
        raise SourceError(
            f"{where}: got {shorten(items)}; allowed is a list of items of the Responses API", code="invalid_messages"
        )
    chat: list[Message] = []
    turn: list[Mapping[str, Any]] = []
    for item in items:
        if not isinstance(item, Mapping):
            raise SourceError(
                f"{where}: got the item {shorten(item)}; allowed are objects of the Responses API", code="invalid_messages"
            )
        if _is_of_model(item):
            if turn and item.get("type") == "message" and any(one.get("type") == "message" for one in turn):
                chat.append(_model_turn(turn))
                turn = []
            turn.append(item)
            continue
        if turn:
            chat.append(_model_turn(turn))
            turn = []
        chat.append(_other_turn(item, where))
    return (*chat, _model_turn(turn)) if turn else tuple(chat)


def _is_of_model(item: Mapping[str, Any]) -> bool:
    kind = str(item.get("type") or "message")
    if kind == "message":
        return item.get("role") == ASSISTANT
    return not kind.endswith("_output")


def _model_turn(items: Iterable[Mapping[str, Any]]) -> Message:
    """Return what the model said in one turn as one message."""
    content, reasoning, calls = "", "", []
    for item in items:
        if (item.get("type") or "message") == "message":
            content += text_of(item.get("content"))
        elif item.get("type") == "reasoning":
            reasoning += text_of(item.get("content")) or text_of(item.get("summary"))
        else:
            called = {"name": item.get("name") or item.get("type"), "arguments": item.get("arguments", "")}
            calls.append({"id": item.get("call_id") or item.get("id"), "type": "function", "function": called})
    extra: dict[str, Any] = {"tool_calls": calls} if calls else {}
    if reasoning:
        extra |= {"reasoning_content": reasoning}
    return Message(ASSISTANT, content, json.dumps(extra, ensure_ascii=False, default=str) if extra else "")


def _other_turn(item: Mapping[str, Any], where: str) -> Message:
    if (item.get("type") or "message") == "message":
        return _read_message(item, where)
    output = item.get("output")
    said = output if isinstance(output, str) else text_of(output) or json.dumps(output, ensure_ascii=False, default=str)
    return Message("tool", said, json.dumps({"tool_call_id": str(item.get("call_id", ""))}))


def said_last(chat: Sequence[Message]) -> str:
    """Return the text of the assistant's last message; empty where there is none."""
    return next((message.content for message in reversed(chat) if message.role == ASSISTANT), "")


def several_turns(chat: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a chat where it is more than one message of the assistant, and nothing where it is one alone."""
    return () if len(chat) <= 1 else chat
