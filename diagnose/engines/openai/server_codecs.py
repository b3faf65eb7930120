"""Prompts for a server whose tokenizer is not here: written by the server, or sent as text.

Neither can say where the steps of a reference path lie in its tokens, so neither encodes paths.
"""

from __future__ import annotations

from typing import Any

from posttrain.diagnose.engines.base import EncodedPath, EncodedPrompt
from posttrain.diagnose.engines.codec import chat_messages, completion_text
from posttrain.diagnose.engines.openai.transport import Refused, Transport
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Message, PromptFormat, Reference


class _PromptCodec:
    """A codec of prompts alone."""

    tokenizer = None
    eos_ids: frozenset[int] = frozenset()

    def encode_path(self, prompt: EncodedPrompt, reference: Reference) -> EncodedPath:
        """Refuse."""
        raise SettingsError(
            "engine openai: reference paths cannot be written as tokens without the tokenizer, so this engine cannot score them; give MODEL "
            "as a folder or hub id with the tokenizer, or use --engine vllm or transformers",
            code="paths_not_encodable",
        )


class ServerCodec(_PromptCodec):
    """Prompts written and tokenised by the server, with the /tokenize and /detokenize that vLLM has."""

    def __init__(self, transport: Transport, root: str, model: str):
        """Take a way to the server, its address before /tokenize, and the name the model is served under."""
        self._transport, self._root, self._model = transport, root, model
        self._known: dict[tuple[str | tuple[Message, ...], PromptFormat], EncodedPrompt] = {}
        try:
            self._tokenize({"model": model, "messages": [{"role": "user", "content": "?"}]})
            self._has_template = True
        except Refused:
            self._has_template = False

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        """Write a prompt as the model reads it; the server is asked once for each."""
        key = (prompt, prompt_format)
        if key not in self._known:
            self._known[key] = self._encode(prompt, prompt_format)
        return self._known[key]

    def _encode(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        if prompt_format.format == "chat" and not self._has_template:
            raise BehaviorError(
                "prompt.format: got chat, but the served model has no chat template; use format: completion",
                code="no_chat_template",
            )
        if prompt_format.format == "chat" or (prompt_format.format == "auto" and self._has_template):
            turns = [message.as_turn() for message in chat_messages(prompt, prompt_format)]
            goes_on = turns[-1]["role"] == "assistant"
            body: dict[str, Any] = {"model": self._model, "messages": turns, "add_generation_prompt": not goes_on}
            if goes_on:
                body["continue_final_message"] = True
            if prompt_format.template_arguments:
                body["chat_template_kwargs"] = prompt_format.template_variables
            if prompt_format.tools:
                body["tools"] = prompt_format.tool_schemas
            ids = self._tokenize(body)
            text = str(self._ask("/detokenize", {"model": self._model, "tokens": list(ids)}).get("prompt"))
            return EncodedPrompt(token_ids=ids, text=text, format="chat")
        text = completion_text(prompt, prompt_format)
        ids = self._tokenize({"model": self._model, "prompt": text})
        return EncodedPrompt(token_ids=ids, text=text, format="completion")

    def _tokenize(self, body: dict[str, Any]) -> tuple[int, ...]:
        """Return the tokens of a text or a chat.

        Raises:
            SettingsError: The server says something else.
        """
        ids = self._ask("/tokenize", body).get("tokens")
        if not isinstance(ids, list) or not ids or not all(isinstance(i, int) for i in ids):
            raise SettingsError(
                f"engine openai: {self._root}/tokenize gave no tokens; give MODEL as a folder or hub id with the tokenizer",
                code="unreadable_reply",
            )
        return tuple(ids)

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        url = self._root + path
        return self._transport.require(self._transport.ask("POST", url, body), url)


class BytesCodec(_PromptCodec):
    """The bytes of a text in the place of its tokens, for servers that take text alone."""

    def encode_prompt(self, prompt: str | tuple[Message, ...], prompt_format: PromptFormat) -> EncodedPrompt:
        """Write a prompt in completion format; the chat template is unknown."""
        if prompt_format.format == "chat" or not isinstance(prompt, str):
            raise BehaviorError(
                "prompt.format: got chat, but neither the tokenizer nor a /tokenize of the server is available; give MODEL as a folder or hub "
                "id with the tokenizer, or use format: completion",
                code="chat_template_unknown",
            )
        text = completion_text(prompt, prompt_format)
        return EncodedPrompt(token_ids=tuple(text.encode()), text=text, format="completion")
