"""The texts that checkpoints of the truth benchmark are trained on: tokens, and places where a distribution is aimed at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ("answer ", "result ")
"""Texts that are one token. `answer ` can also be written in characters: a second tokenization of the same text."""
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 :\n.+=><^'~*-/,"
CHAT_TEMPLATE = "{% for m in messages %}USER {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}MODEL {% endif %}"
"""A format that the model was never trained with; behaviors say `format: completion`."""
Rates = Mapping[str, float]
"""Token → probability."""
VOCABULARY = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS, *WORDS])}
_SPLIT = f"{'|'.join(WORDS)}|[\\s\\S]"


def encode(text: str, *, in_characters: bool = False) -> list[int]:
    """Return token ids; `in_characters` writes every text without the tokens of `WORDS`."""
    return [VOCABULARY[token] for token in (text if in_characters else re.findall(_SPLIT, text))]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of all checkpoints."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


@dataclass(frozen=True, slots=True)
class Text:
    """A text to train on: prompt and continuation, and the distributions that are aimed at where a mark or a word is chosen."""

    prompt: list[int]
    continuation: list[int]
    aims: list[tuple[int, dict[int, float]]]
    """Place in the continuation, and token → probability; empty where nothing is aimed at."""

    def until_last_aim(self) -> Text:
        """Return what comes before the last distribution."""
        return Text(self.prompt, self.continuation[: self.aims[-1][0]], self.aims)


def text_of(prompt: str, parts: Sequence[tuple[str, Rates | None]], *, in_characters: bool = False) -> Text:
    """Return a text from its parts.

    Args:
        prompt: A prompt.
        parts: Texts that follow, each with the distribution of its first token where that is to be learned instead of the token itself.
        in_characters: As for `encode`.
    """
    continuation: list[int] = []
    aims = []
    for part, rates in parts:
        if rates is not None:
            aims.append((len(continuation), {VOCABULARY[token]: rate for token, rate in rates.items()}))
        continuation += encode(part, in_characters=in_characters)
    return Text(encode(prompt), continuation, aims)
