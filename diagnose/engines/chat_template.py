"""A model's chat template: what it writes for a chat, which variables and keys it reads, and what ends an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
        self._prefetched: dict[tuple[tuple[Message, ...], bool], str] = {}
        self._prefetched_with: tuple[object, object] = ((), None)
        """The tools and the arguments of what was prefetched."""

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
        if not continue_final and tools is self._prefetched_with[0] and arguments is self._prefetched_with[1]:
            known = self._prefetched.get((tuple(messages), generation_prompt))
            if known is not None:
                return known
        request = self._request(
            messages,
            generation_prompt=generation_prompt,
            continue_final=continue_final,
            tools=tools,
            arguments=arguments,
        )
        return self._render(request)

    def prefetch(
        self,
        chats: Sequence[tuple[Sequence[Message], bool]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Render chats all at once that `render` is about to be asked for; the process that renders is far away.

        Args:
            chats: Messages, and whether they end with what opens an answer. Those that cannot be rendered are left to `render`.
            tools: As for `render`.
            arguments: As for `render`.
        """
        requests = [self._request(m, generation_prompt=opens, tools=tools, arguments=arguments) for m, opens in chats]
        found = render_chats(self._source(tools or None), requests, seconds=self._seconds, today=self._today)
        self._prefetched_with = tools, arguments
        self._prefetched = {
            (tuple(messages), opens): text for (messages, opens), text in zip(chats, found, strict=True) if isinstance(text, str)
        }

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
        """Return a turn in the form of content that the template writes: texts where it knows no parts, parts where it knows nothing else."""
        turn = message.as_turn()
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

    def _probe(self, content: Any) -> str | None:
        """Return what the template writes for a turn of the user; None where the marker is lost."""
        settings = {**self._tokenizer.special_tokens_map, "add_generation_prompt": True}
        try:
            rendered = self._render(RenderRequest(chat=[{"role": "user", "content": content}], settings=settings))
        except BehaviorError:
            return None
        return rendered if _MARKER in rendered and not _AS_IT_IS.search(rendered) else None

    def _request(
        self,
        messages: Sequence[Message],
        *,
        generation_prompt: bool = False,
        continue_final: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> RenderRequest:
        settings = {
            **self._tokenizer.special_tokens_map,
            **(arguments or {}),
            "tools": list(tools) or None,
            "add_generation_prompt": generation_prompt,
            "continue_final_message": continue_final,
        }
        return RenderRequest(chat=[self._turn(message) for message in messages], settings=settings)

    def _render(self, request: RenderRequest) -> str:
        source = self._source(request.settings.get("tools"))
        (text,) = render_chats(source, [request], seconds=self._seconds, today=self._today)
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


_AS_IT_IS = re.compile(r"""['"]type['"]:""")
"""A part that is written as the object that it is, and not as its text."""
_PARTS = [{"type": "text", "text": _MARKER}]
