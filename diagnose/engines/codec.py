"""Encoding of text as tokens: how a problem becomes a prompt and how a reference path continues it.

Cutting text is not cutting tokens, so prompt and path are tokenised together and the ids are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from posttrain.diagnose.engines.base import EncodedPath, EncodedPrompt
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message, PromptFormat, Reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_messages(prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> list[Message]:
    """Write the messages of a chat: system message, worked examples, question. A prompt that is a chat already is kept as it is."""
    if not isinstance(prompt, str):
        return list(prompt)
    messages = [Message("system", prompt_format.system)] if prompt_format.system is not None else []
    for question, answer in prompt_format.examples:
        messages += [Message("user", prompt_format.template.replace("{question}", question)), Message("assistant", answer)]
    return [*messages, Message("user", prompt_format.template.replace("{question}", prompt))]


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
        shot = prompt_format.template.replace("{question}", question)
        shots.append(shot + ("" if shot.endswith((" ", "\n")) else " ") + answer + "\n")
    head = f"{prompt_format.system}\n\n" if prompt_format.system else ""
    return head + "".join(shots) + prompt_format.template.replace("{question}", prompt)


class TextCodec:
    """Encodes prompts and paths with a Hugging Face tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]):
        """Take a fast tokenizer and the ids that end a turn."""
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids

    @cached_property
    def end_id(self) -> int:
        """The id that ends an answer: what the chat template writes after one, else the tokenizer's end of text."""
        if self.tokenizer.chat_template is not None:
            marker = "posttrain"
            rendered = self.render([Message("user", "?"), Message("assistant", marker)], generation_prompt=False)
            after = self.tokenizer(rendered.rpartition(marker)[2], add_special_tokens=False)["input_ids"]
            if after and after[0] in self.eos_ids:
                return int(after[0])
        return int(self.tokenizer.eos_token_id) if self.tokenizer.eos_token_id is not None else min(self.eos_ids)

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        """Write a prompt as the model reads it."""
        has_template = self.tokenizer.chat_template is not None
        if prompt_format.format == "chat" and not has_template:
            raise BehaviorError(
                "prompt.format: got chat, but the model's tokenizer has no chat template; use format: completion",
                code="no_chat_template",
            )
        if prompt_format.format == "chat" or (prompt_format.format == "auto" and has_template):
            text = self.render(chat_messages(prompt, prompt_format), generation_prompt=True)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return EncodedPrompt(token_ids=tuple(ids), text=text, format="chat")
        text = completion_text(prompt, prompt_format)
        ids = self.tokenizer(text, add_special_tokens=True)["input_ids"]
        # Some tokenizers append their end token to every text; a prompt must not end with it.
        while ids and ids[-1] in self.eos_ids:
            ids = ids[:-1]
        if not ids:
            raise BehaviorError("got a prompt that encodes to no token; give a prompt with some text", code="empty_prompt")
        return EncodedPrompt(token_ids=tuple(ids), text=text, format="completion")

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        """Tokenise prompt and path together, cut the ids after the prompt, add the end token."""
        text = reference.text
        if prompt.format == "completion" and text[:1].isalnum() and not prompt.text.endswith((" ", "\n")):
            text = " " + text
        whole = self.tokenizer(prompt.text + text, add_special_tokens=prompt.format == "completion", return_offsets_mapping=True)
        ids, offsets, start = list(whole["input_ids"]), list(whole["offset_mapping"]), len(prompt.text)
        n = len(prompt.token_ids)
        if tuple(ids[:n]) == prompt.token_ids:
            ids, offsets = ids[n:], offsets[n:]
        else:  # a token spans the border: then the sampler, which starts from the prompt's ids, can only meet the path by itself
            alone = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids, offsets, start = list(alone["input_ids"]), list(alone["offset_mapping"]), 0
        while ids and ids[-1] in self.eos_ids:
            ids, offsets = ids[:-1], offsets[:-1]
        shift = start + len(text) - len(reference.text)
        ends = list(accumulate(len(step) for step in reference.steps))
        source = prompt.text + text if start else text
        steps = [next((i for i, end in enumerate(ends) if last - 1 - shift < end), len(ends) - 1) for _, last in offsets]
        texts = [source[first:last] for first, last in offsets]
        end_text = str(self.tokenizer.convert_ids_to_tokens(self.end_id))
        return EncodedPath(
            token_ids=(*ids, self.end_id), token_texts=(*texts, end_text), token_steps=(*steps, len(reference.steps) - 1)
        )

    def decode(self, token_ids: list[int]) -> str:
        """Decode generated ids; special tokens are left out, spaces kept as they are."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """Write a chat with the model's template, with or without what opens an answer.

        Raises:
            BehaviorError: The template refuses the chat.
        """
        turns = [message._asdict() for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation_prompt))
        except TemplateError as error:  # some templates refuse a system message, or two turns of one role
            roles = ", ".join(message.role for message in messages)
            raise BehaviorError(
                f"the model's chat template refuses a chat of {roles} ({error}); change prompt.system or the messages, or use format: completion",
                code="chat_refused_by_template",
            ) from error
