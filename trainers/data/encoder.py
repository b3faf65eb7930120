"""Rows of a data set as tokens: which stand in the prompt, which are learned. Texts are tokenised in batches, each once.

A prompt and its completion are tokenised as one text, and the completion begins with the first token that the prompt alone does not have:
TRL's rule (`trl.data_utils.common_prefix_length`). Nothing is put between them. A text ends with the tokenizer's end token, a chat with what
its template ends a turn with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.types import Floats
from posttrain.trainers.data.chats import LearnedSpan, RenderedChat

if TYPE_CHECKING:
    from tokenizers import Encoding

T = TypeVar("T")
Ids = tuple[int, ...]
BATCH = 1024
"""Texts that are tokenised in one call."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedExample:
    """An answer, or the learned turns of a chat, as tokens."""

    prompt_ids: Ids
    """What stands before the first token that is learned; at least one token."""
    completion_ids: Ids
    """[T] everything after it, the end token included."""
    token_weights: Floats | None = None
    """[T] 1 on what is learned, 0 elsewhere; None where all of it is."""
    text: str
    """What is learned, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainText:
    """A prompt and its completion as texts, or a text without a prompt."""

    prompt: str
    """Empty for a text all of which is learned."""
    completion: str


def encode(codec: TextCodec, items: Iterable[PlainText | RenderedChat]) -> Iterator[EncodedExample]:
    """Yield each item as tokens, in order.

    Args:
        codec: Knows the tokenizer and what ends an answer.
        items: Texts and rendered chats; read as they are needed.
    """
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        texts = [item for item in batch if isinstance(item, PlainText)]
        chats = [item for item in batch if isinstance(item, RenderedChat)]
        plain, rendered = _encode_texts(codec, texts), _encode_chats(codec, chats)
        for item in batch:
            yield next(plain) if isinstance(item, PlainText) else next(rendered)


def _encode_texts(codec: TextCodec, texts: Sequence[PlainText]) -> Iterator[EncodedExample]:
    prompts = codec.encode_texts([text.prompt for text in texts if text.prompt])
    wholes = codec.encode_texts([text.prompt + text.completion for text in texts])
    before = iter(prompts)
    for text, whole in zip(texts, wholes, strict=True):
        ids = whole if whole and whole[-1] == codec.text_end_id else (*whole, codec.text_end_id)
        # Of a text without a prompt the first token is the prompt: nothing predicts it
        cut = max(_num_common(next(before), whole), 1) if text.prompt else 1
        yield EncodedExample(prompt_ids=ids[:cut], completion_ids=ids[cut:], text=text.completion)


def _encode_chats(codec: TextCodec, chats: Sequence[RenderedChat]) -> Iterator[EncodedExample]:
    if not chats:
        return
    encodings = codec.tokenizer([chat.text for chat in chats], add_special_tokens=False, return_attention_mask=False).encodings
    assert encodings is not None, "TextCodec takes a fast tokenizer"
    for chat, encoding in zip(chats, encodings, strict=True):
        yield _cut_chat(codec, chat, encoding)


def _cut_chat(codec: TextCodec, chat: RenderedChat, encoding: Encoding) -> EncodedExample:
    ids = encoding.ids
    spans = [
        (_first_learned(codec, chat.text, span, encoding, ids), _first_token(encoding, span.end, len(chat.text), len(ids)))
        for span in chat.spans
    ]
    if not chat.is_ended:
        ids.append(codec.end_id)
        spans[-1] = (spans[-1][0], len(ids))
    start = max(spans[0][0], 1)
    weights = None
    if len(spans) > 1:
        weights = np.zeros(len(ids) - start, dtype=np.float32)
        for first, end in spans:
            weights[max(first - start, 0) : end - start] = 1.0
    return EncodedExample(
        prompt_ids=tuple(ids[:start]), completion_ids=tuple(ids[start:]), token_weights=weights, text=chat.answer
    )


def _first_learned(codec: TextCodec, text: str, span: LearnedSpan, encoding: Encoding, ids: Sequence[int]) -> int:
    """Return the first token that the tokens of what is shown do not have at its place."""
    first = _first_token(encoding, span.start, len(text), len(ids))
    if not span.shown_rest and (first == len(ids) or _begin(encoding, first) >= span.start):
        return first
    # A token spans the border: what is shown is tokenised by itself from the last special token on, which no token spans
    begin = next((i for i in range(first - 1, -1, -1) if ids[i] in codec.special_ids), 0)
    shown = text[_begin(encoding, begin) if begin else 0 : span.start] + span.shown_rest
    return begin + _num_common(codec.tokenizer(shown, add_special_tokens=False)["input_ids"], ids[begin:])


def _begin(encoding: Encoding, token: int) -> int:
    """Return where a token begins in the text; 0 for one that stands for nothing in it."""
    characters = encoding.token_to_chars(token)
    return characters[0] if characters is not None else 0


def _first_token(encoding: Encoding, place: int, num_characters: int, num_tokens: int) -> int:
    """Return the first token that holds a character at or behind a place."""
    behind = (encoding.char_to_token(i) for i in range(place, num_characters))
    return next((token for token in behind if token is not None), num_tokens)


def _num_common(ids: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two lists begin with in common."""
    return next((i for i, (one, two) in enumerate(zip(ids, other, strict=False)) if one != two), min(len(ids), len(other)))
