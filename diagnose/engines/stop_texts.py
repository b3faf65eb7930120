"""Texts and tokens side by side: whether a stop text has appeared among the tokens so far, and how many tokens a part of a text takes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from posttrain.diagnose.engines.base import Codec
from posttrain.diagnose.engines.codec import TextCodec

if TYPE_CHECKING:
    from tokenizers.decoders import DecodeStream


@runtime_checkable
class Decodes(Protocol):
    """A codec that reads generated tokens itself."""

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of generated ids, without end tokens."""
        ...


class StopMatcher:
    """Looks for stop texts in one sample, token by token; a stop text may span tokens, begin within one, or be a special token."""

    def __init__(self, codec: TextCodec, stops: Sequence[str]):
        """Take what decodes, and the stop texts, one at least."""
        from tokenizers.decoders import DecodeStream

        self._codec, self._stops = codec, tuple(stops)
        self._kept = max(map(len, stops)) - 1
        self._stream: DecodeStream | None = DecodeStream(skip_special_tokens=False)
        self._tail = ""
        self._ids: list[int] = []

    def found_after(self, token: int) -> bool:
        """Add the next token; return whether a stop text is complete now."""
        self._ids.append(token)
        if self._stream is not None:
            try:
                new = self._stream.step(self._codec.tokenizer.backend_tokenizer, token)
            except Exception:  # a decoder whose text of a prefix is no prefix of the text cannot be followed step by step
                self._stream = None
            else:
                if not new:  # the character is not complete yet
                    return False
                text = self._tail + new
                self._tail = text[-self._kept :] if self._kept else ""
                return self._in(text)
        return self._in(self._codec.decode(self._ids))

    def _in(self, text: str) -> bool:
        return any(stop in text for stop in self._stops)


def count_tokens(codec: Codec, token_ids: Sequence[int], num_characters: int) -> int | None:
    """Return how many of the generated tokens hold the first characters of their text; None where the codec reads no tokens."""
    if num_characters <= 0:
        return 0
    if not isinstance(codec, Decodes):
        return None
    ids = [token for token in token_ids if token not in codec.eos_ids]
    return bisect_left(range(len(ids)), num_characters, key=lambda num: len(codec.decode(ids[:num]))) if ids else 0
