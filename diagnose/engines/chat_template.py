"""A model's chat template: what it writes for a chat, which variables and keys it reads, and what ends an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from posttrain.diagnose.engines.limits import first_line
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""What a template that asks for today's date is told (Llama 3.2's and others' do), so that the same chat has the same tokens tomorrow; another
date is a matter of `chat_template_kwargs`, e.g. `date_string`."""

_MARKER = "posttrain"
_FAILURES = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError)
"""What a template raises on a chat that it cannot write: its own refusal, or an operation on a key that is not there."""


class ChatTemplate:
    """Renders chats with the template of a tokenizer that has one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        """Take a tokenizer with a chat template."""
        self._tokenizer = tokenizer

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
            BehaviorError: The template refuses the chat, or fails on it.
        """
        turns = [self._turn(message) for message in messages]
        variables: dict[str, Any] = {"strftime_now": TEMPLATE_DATE.strftime} if self.asks_date else {}
        try:
            return self._render(
                turns,
                tools=list(tools) or None,
                add_generation_prompt=generation_prompt,
                continue_final_message=continue_final,
                **variables,
                **(arguments or {}),
            )
        except _FAILURES as error:  # some templates refuse a system message, or two turns of one role
            roles = ", ".join(message.role for message in messages[:8]) + (", …" if len(messages) > 8 else "")
            raise BehaviorError(
                f"the model's chat template refuses a chat of {roles} ({first_line(error)}); change prompt.system or the messages, or use format: "
                "completion",
                code="chat_refused_by_template",
            ) from error

    @cached_property
    def turn_end_id(self) -> int | None:
        """The special token that the template writes behind an answer; None where it writes none."""
        try:
            rendered = self.render([Message("user", "?"), Message("assistant", _MARKER)])
        except BehaviorError:
            return None
        if _MARKER not in rendered:
            return None
        ids = self._tokenizer(rendered.rpartition(_MARKER)[2].lstrip(), add_special_tokens=False)["input_ids"]
        special = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        return int(ids[0]) if ids and (ids[0] in special or ids[0] in self._tokenizer.all_special_ids) else None

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
        try:
            rendered = self._render([{"role": "user", "content": content}], add_generation_prompt=True)
        except _FAILURES:
            return None
        return rendered if _MARKER in rendered else None

    def _render(self, turns: list[dict[str, Any]], **variables: Any) -> str:
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, **variables))

    @cached_property
    def asks_date(self) -> bool:
        """Whether the template asks for today's date, which is `TEMPLATE_DATE` then."""
        return "strftime_now" in self.source

    def _source(self, tools: Any) -> str:
        return str(self._tokenizer.get_chat_template(None, tools))


_PARTS = [{"type": "text", "text": _MARKER}]
