"""A model's chat template: what it writes for a chat, which variables and keys it reads, and what ends an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.engines.template_process import RENDER_SECONDS, RenderRequest, render_chats
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""What a template that asks for today's date is told (Llama 3.2's and others' do), so that the same chat has the same tokens tomorrow; another
date is a matter of `chat_template_kwargs`, e.g. `date_string`."""

_MARKER = "posttrain"


class ChatTemplate:
    """Renders chats with the template of a tokenizer that has one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, seconds: float = RENDER_SECONDS):
        """Take a tokenizer with a chat template, and the seconds that the template may take for a chat."""
        self._tokenizer, self._seconds = tokenizer, seconds

    @cached_property
    def source(self) -> str:
        """The template's text; of several, that of the default one."""
        return self._source(None)

    def reads(self, name: str, tools: Sequence[Mapping[str, Any]] = ()) -> bool:
        """Return whether the template mentions a variable or a key."""
        return re.search(rf"\b{re.escape(name)}\b", self._source(tools or None)) is not None

    def render(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool = False,
        continue_final: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a chat as the template writes it.

        Args:
            messages: At least one.
            generation_prompt: Whether to end with what opens an answer.
            continue_final: Whether to end within the last message, which an answer goes on with.
            tools: Schemas that the template shows.
            arguments: Further variables of the template.

        Raises:
            BehaviorError: The template refuses the chat, fails on it, or takes more time or memory than it may; see `render_chats`.
        """
        request = self.request(
            messages,
            generation_prompt=generation_prompt,
            continue_final=continue_final,
            tools=tools,
            arguments=arguments,
        )
        return self._render(request)

    def render_all(self, requests: Sequence[RenderRequest]) -> list[str | BehaviorError]:
        """Return chats as the template writes them, or why it does not, in one exchange with the process that renders.

        Args:
            requests: Made by `request`; they share the time and the memory that the template may take for one chat.
        """
        sources = [self._source(request.settings.get("tools")) for request in requests]
        found: dict[int, str | BehaviorError] = {}
        for source in set(sources):  # a tokenizer may have a template of its own for chats with tools
            places = [place for place, its_source in enumerate(sources) if its_source == source]
            texts = render_chats(source, [requests[i] for i in places], seconds=self._seconds, today=self._today)
            found.update(zip(places, texts, strict=True))
        return [found[place] for place in range(len(requests))]

    @cached_property
    def turn_end_id(self) -> int | None:
        """The added token that the template writes behind an answer; None where it writes none."""
        try:
            rendered = self.render([Message("user", "?"), Message("assistant", _MARKER)])
        except BehaviorError:
            return None
        if _MARKER not in rendered:
            return None
        ids = self._tokenizer(rendered.rpartition(_MARKER)[2].lstrip(), add_special_tokens=False)["input_ids"]
        added = self._tokenizer.added_tokens_decoder  # some tokenizers do not mark what ends a turn as special
        return int(ids[0]) if ids and (ids[0] in added or ids[0] in self._tokenizer.all_special_ids) else None

    def _turn(self, message: Message) -> dict[str, Any]:
        """Return a turn in the form of content and tool calls that the template writes.

        Content is a text where it knows no parts, parts where it knows nothing else, and not null where it would print that. Arguments of
        tool calls are objects where it would write their JSON as a text in quotes, and JSON where it fails on objects.
        """
        turn = message.as_turn()
        if turn.get("tool_calls"):
            turn = self._with_calls(turn)
        elif turn["content"] is None:
            turn["content"] = ""
        if isinstance(turn["content"], list):
            return turn if self._writes_parts else turn | {"content": message.content}
        if self._writes_texts or not isinstance(turn["content"], str):
            return turn
        return turn | {"content": [{"type": "text", "text": turn["content"]}]}

    @cached_property
    def _writes_texts(self) -> bool:
        return self._probe(_MARKER) is not None or self._probe(_PARTS) is None

    @cached_property
    def _writes_parts(self) -> bool:
        """Whether parts come out as their text does, and not as the list that they are."""
        parts, text = self._probe(_PARTS), self._probe(_MARKER)
        return parts is not None and text in (None, parts)

    def _with_calls(self, turn: dict[str, Any]) -> dict[str, Any]:
        """Return a turn with its tool calls, and null in place of a content, as the template writes them; as it is where it writes neither."""
        change, empty_contents = self._call_form
        calls = [_with_arguments(call, change) for call in turn["tool_calls"]] if change is not None else turn["tool_calls"]
        content = turn["content"]
        if content in ("", None) and content not in empty_contents:
            content = empty_contents[0]
        return turn | {"tool_calls": calls, "content": content}

    @cached_property
    def _call_form(self) -> tuple[Callable[[Any], Any] | None, tuple[str | None, ...]]:
        """What makes arguments of tool calls such as the template writes (None: they may stay), and which contents beside it takes for none."""
        as_object, as_text = (
            [self._probe_call(content, arguments) for content in ("", None)]
            for arguments in ({_MARKER: 1}, json.dumps({_MARKER: 1}))
        )
        by_object, by_text = (next(filter(None, written), None) for written in (as_object, as_text))
        change: Callable[[Any], Any] | None = None
        if by_object is not None and (by_text is None or by_text.split() != by_object.split()):
            change = _as_object
        elif by_object is None and by_text is not None:
            change = _as_json
        empty, null = as_object if by_object is not None else as_text
        if empty is None:  # some write calls in the place of a content alone, and take an empty text for one
            return change, ("", None) if null is None else (None,)
        return change, ("", None) if null is not None and null.count("None") <= empty.count("None") else ("",)

    def _probe_call(self, content: str | None, arguments: Any) -> str | None:
        """Return what the template writes for a tool call; None where it fails, loses the arguments or writes them as a text in quotes."""
        call = {"type": "function", "id": "abcdefghi", "function": {"name": "f", "arguments": arguments}}
        chat: list[dict[str, Any]] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
        ]
        rendered = self._try(chat)
        return None if rendered is None or f'\\"{_MARKER}' in rendered else rendered

    def _probe(self, content: Any) -> str | None:
        """Return what the template writes for a turn of the user; None where the marker is lost."""
        rendered = self._try([{"role": "user", "content": content}], add_generation_prompt=True)
        return None if rendered is None or _AS_IT_IS.search(rendered) else rendered

    def _try(self, chat: list[dict[str, Any]], **settings: Any) -> str | None:
        """Return what the template writes for a chat that holds the marker; None where it fails or loses the marker."""
        request = RenderRequest(chat=chat, settings={**self._tokenizer.special_tokens_map, **settings})
        try:
            rendered = self._render(request)
        except BehaviorError:
            return None
        return rendered if _MARKER in rendered else None

    def request(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool = False,
        continue_final: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> RenderRequest:
        """Return what `render` asks for; the arguments are the same."""
        settings = {
            **self._tokenizer.special_tokens_map,
            **(arguments or {}),
            "tools": list(tools) or None,
            "add_generation_prompt": generation_prompt,
            "continue_final_message": continue_final,
        }
        return RenderRequest(chat=[self._turn(message) for message in messages], settings=settings)

    def _render(self, request: RenderRequest) -> str:
        (text,) = self.render_all([request])
        if isinstance(text, BehaviorError):
            raise text
        return text

    @cached_property
    def asks_date(self) -> bool:
        """Whether the template asks for today's date, which is `TEMPLATE_DATE` then."""
        return "strftime_now" in self.source

    @property
    def _today(self) -> datetime | None:
        return TEMPLATE_DATE if self.asks_date else None

    def _source(self, tools: Any) -> str:
        return str(self._tokenizer.get_chat_template(None, tools))


def _with_arguments(call: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tool call with its arguments in another form."""
    function = call.get("function")
    if isinstance(function, dict) and "arguments" in function:
        return call | {"function": function | {"arguments": change(function["arguments"])}}
    return call | {"arguments": change(call["arguments"])} if "arguments" in call else call


def _as_object(arguments: Any) -> Any:
    """Return the object that a JSON text holds; anything else as it is."""
    if isinstance(arguments, str):
        with suppress(ValueError):
            read = json.loads(arguments)
            return read if isinstance(read, dict) else arguments
    return arguments


def _as_json(arguments: Any) -> Any:
    """Return an object as JSON; anything else as it is."""
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else arguments


_AS_IT_IS = re.compile(r"""['"]type['"]:""")
"""A part that is written as the object that it is, and not as its text."""
_PARTS = [{"type": "text", "text": _MARKER}]
