"""Encoding of text as tokens: how a problem becomes a prompt and how a reference path continues it.

Cutting text is not cutting tokens, so prompt and path are tokenised together and the ids are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.engines.base import Codec, EncodedPath, EncodedPrompt
from posttrain.diagnose.engines.chat_template import TEMPLATE_DATE, ChatTemplate
from posttrain.diagnose.engines.template_process import RENDER_SECONDS
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, PromptFormat, Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKER = "posttrain7391"
"""A word that a template can have no reason to change."""


def chat_messages(prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> list[Message]:
    """Write the messages of a chat: system message, worked examples, question. A prompt that is a chat already is kept as it is."""
    if not isinstance(prompt, str):
        return list(prompt)
    messages = [Message("system", prompt_format.system)] if prompt_format.system is not None else []
    for question, answer in prompt_format.examples:
        messages += [Message("user", prompt_format.ask(question)), Message("assistant", answer)]
    return [*messages, Message("user", prompt_format.ask(prompt))]


def completion_text(prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> str:
    """Write the text that a base model continues: worked examples and question, one after the other.

    Raises:
        BehaviorError: the prompt is a chat.
    """
    if not isinstance(prompt, str):
        raise BehaviorError(
            "got a prompt of chat messages under prompt.format completion; give a text, or use format: chat with a model that has a chat template",
            code="chat_in_completion_format",
        )
    shots = []
    for question, answer in prompt_format.examples:
        shot = prompt_format.ask(question)
        shots.append(shot + ("" if shot.endswith((" ", "\n")) else " ") + answer + "\n")
    head = f"{prompt_format.system}\n\n" if prompt_format.system else ""
    return head + "".join(shots) + prompt_format.ask(prompt)


def template_date(codec: Codec) -> str | None:
    """Return the date that a chat template is told, as in 2025-01-31; None where it asks for none."""
    template = codec.template if isinstance(codec, TextCodec) else None
    return TEMPLATE_DATE.date().isoformat() if template is not None and template.asks_date else None


def end_texts(codec: Codec) -> list[str]:
    """Return the tokens that end an answer, as text, sorted; none where they are not known here."""
    if codec.tokenizer is None:
        return []
    return sorted(str(codec.tokenizer.convert_ids_to_tokens(token)) for token in codec.eos_ids)


class TextCodec:
    """Encodes prompts and paths with a Hugging Face tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int], *, template_seconds: float = RENDER_SECONDS):
        """Take a fast tokenizer, the ids that end a turn (what its chat template ends one with is added), and the seconds that its template may take."""
        self.tokenizer = tokenizer
        self.template = None if tokenizer.chat_template is None else ChatTemplate(tokenizer, seconds=template_seconds)
        self.known_eos_ids = eos_ids
        """The ids that tokenizer and generation settings end a text with."""

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        return self.known_eos_ids if self._turn_end_id is None else self.known_eos_ids | {self._turn_end_id}

    @cached_property
    def end_id(self) -> int:
        """The id that ends an answer in a chat: what the template writes after one, else the tokenizer's end of text."""
        return self.text_end_id if self._turn_end_id is None else self._turn_end_id

    @cached_property
    def text_end_id(self) -> int:
        """The id that ends a text: the tokenizer's."""
        return int(self.tokenizer.eos_token_id) if self.tokenizer.eos_token_id is not None else min(self.eos_ids)

    @cached_property
    def _turn_end_id(self) -> int | None:
        return None if self.template is None else self.template.turn_end_id

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of tokens that no other token is merged with."""
        return frozenset(self.tokenizer.all_special_ids) | frozenset(self.tokenizer.added_tokens_decoder)

    def writes_chat(self, prompt_format: PromptFormat) -> bool:
        """Return whether prompts are written with the chat template.

        Raises:
            BehaviorError: They should be, and there is none.
        """
        if prompt_format.format == "chat" and self.template is None:
            raise BehaviorError(
                "prompt.format: got chat, but the model's tokenizer has no chat template; use format: completion",
                code="no_chat_template",
            )
        return prompt_format.format == "chat" or (prompt_format.format == "auto" and self.template is not None)

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        """Write a prompt as the model reads it. A chat that ends with the assistant ends within that turn, which an answer goes on with.

        Raises:
            BehaviorError: The prompt cannot be written in this format, or the chat template leaves a part of it out.
        """
        if self.writes_chat(prompt_format):
            messages, tools = chat_messages(prompt, prompt_format), prompt_format.tool_schemas
            arguments = prompt_format.template_variables
            text = self.render_prompt(messages, tools=tools, arguments=arguments)
            self.refuse_dropped(messages, text, tools=tools, arguments=arguments)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return EncodedPrompt(token_ids=tuple(ids), text=text, format="chat")
        text = completion_text(prompt, prompt_format)
        (ids,) = self.encode_texts([text])
        if not ids:
            raise BehaviorError("got a prompt that encodes to no token; give a prompt with some text", code="empty_prompt")
        return EncodedPrompt(token_ids=ids, text=text, format="completion")

    def encode_texts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokenise texts that are no chats, with what the tokenizer puts before a text (a beginning-of-text token) once, and no end token."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=True, return_attention_mask=False)["input_ids"]
        num_after = len(self._added[1])
        return [tuple(ids[self._num_doubled(ids) : len(ids) - num_after]) for ids in found]

    def _num_doubled(self, ids: Sequence[int]) -> int:
        """Return how many tokens to leave out at the beginning, where the text holds itself what the tokenizer puts before it."""
        before = self._added[0]
        return len(before) if before and tuple(ids[: 2 * len(before)]) == before * 2 else 0

    @cached_property
    def _added(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the tokenizer puts before and after every text."""
        plain = tuple(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = tuple(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
        return (), ()

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        """Tokenise prompt and path together, cut the ids after the prompt, add the end token. Nothing is put between them."""
        text = reference.text
        is_text = prompt.format == "completion"
        whole = self.tokenizer(prompt.text + text, add_special_tokens=is_text, return_offsets_mapping=True)
        doubled = self._num_doubled(whole["input_ids"]) if is_text else 0
        ids, offsets, start = list(whole["input_ids"])[doubled:], list(whole["offset_mapping"])[doubled:], len(prompt.text)
        n = len(prompt.token_ids)
        if tuple(ids[:n]) == prompt.token_ids:
            ids, offsets = ids[n:], offsets[n:]
        else:  # a token spans the border: then the sampler, which starts from the prompt's ids, can only meet the path by itself
            alone = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets, start = list(alone["input_ids"]), list(alone["offset_mapping"]), 0
        while ids and ids[-1] in self.eos_ids:
            ids, offsets = ids[:-1], offsets[:-1]
        ends = list(accumulate(len(step) for step in reference.steps))
        source = prompt.text + text if start else text
        steps = [next((i for i, end in enumerate(ends) if last - 1 - start < end), len(ends) - 1) for _, last in offsets]
        texts = [source[first:last] for first, last in offsets]
        end_id = self.text_end_id if is_text else self.end_id
        end_text = str(self.tokenizer.convert_ids_to_tokens(end_id))
        return EncodedPath(
            token_ids=(*ids, end_id), token_texts=(*texts, end_text), token_steps=(*steps, len(reference.steps) - 1)
        )

    def decode(self, token_ids: list[int]) -> str:
        """Decode generated ids; end tokens are left out, other special tokens kept, and spaces kept as they are."""
        ids = [token for token in token_ids if token not in self.eos_ids]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def render_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a chat up to where an answer begins: what opens one, or the end of the assistant's turn that it goes on with.

        Raises:
            BehaviorError: The template refuses the chat, fails, or does not end; see `ChatTemplate.render`.
        """
        assert self.template is not None, "chats are written by a chat template"
        goes_on = messages[-1].role == "assistant"
        return self.template.render(
            messages, generation_prompt=not goes_on, continue_final=goes_on, tools=tools, arguments=arguments
        )

    def refuse_dropped(
        self,
        messages: Sequence[Message],
        text: str,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse a chat of which the template leaves out a turn: the model would answer another question.

        A template may change a turn (trim it, escape it, leave out earlier thinking), but a word in its place must appear.

        Args:
            messages: The chat.
            text: What `render_prompt` wrote for it.
            tools: As for `render_prompt`.
            arguments: As for `render_prompt`.

        Raises:
            BehaviorError: A turn does not appear in the text.
        """
        for index, message in enumerate(messages):
            if message.content.strip() in text:
                continue
            marked = [*messages[:index], message._replace(content=_MARKER, extra=""), *messages[index + 1 :]]
            if _MARKER not in self.render_prompt(marked, tools=tools, arguments=arguments).casefold():
                roles = ", ".join(each.role for each in messages[:8]) + (", …" if len(messages) > 8 else "")
                raise BehaviorError(
                    f"the model's chat template leaves out the {message.role} turn (number {index + 1} of {roles}), so the model would not see it; repair "
                    "the template, change prompt.system or the messages, or use format: completion",
                    code="turn_left_out_by_template",
                )
