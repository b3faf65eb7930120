"""Chats as tokens: what a model is shown at each of its turns and what it says there, by its chat template and nothing else.

What is shown at a turn is the template's rendering of everything before it, with the opening of an answer; what is said is what the
rendering grows by when the answer is added, up to its end token. A chat whose renderings grow at the end alone is one row, in which only
what the assistant said counts. Templates that write earlier turns differently once later ones follow (they drop earlier thinking, say)
show the model another text at each turn, so each turn is a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.types import Floats, Message

Ids = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenChat:
    """A chat, or one turn of it, as tokens."""

    text: str
    """The answers, one after the other."""
    prompt_ids: Ids
    """What stands before the first answer that is learned, its opening included."""
    completion_ids: Ids
    """[T] everything after it, up to the end token of the last answer."""
    token_weights: Floats | None = None
    """[T] 1 on what the assistant said, end tokens included, 0 elsewhere; None where all of it is."""


def write_answer(codec: TextCodec, before: Sequence[Message], answer: str) -> WrittenChat:
    """Return an answer and what the template shows before it.

    Args:
        codec: Knows the tokenizer, its template and what ends a turn.
        before: The turns before, at least one.
        answer: What the assistant says.

    Raises:
        BehaviorError: The template refuses the chat.
    """
    shown = codec.render(before, generation_prompt=True)
    whole = codec.render([*before, Message("assistant", answer)], generation_prompt=False)
    prompt = _tokenise(codec, shown)
    said = _up_to_end(codec, _tokenise_behind(codec, shown, prompt, whole[len(shown) :])) if whole.startswith(shown) else None
    if (
        said is None
    ):  # the template ends no turn, or writes a finished answer otherwise than it opens one: then the words themselves
        begun = codec.render(before, generation_prompt=False)
        opening = shown[len(begun) :] if shown.startswith(begun) else ""
        said = (*_tokenise_behind(codec, shown, prompt, _not_yet_said(opening, answer)), codec.end_id)
    return WrittenChat(prompt_ids=prompt, completion_ids=said, text=answer)


def write_chat(codec: TextCodec, chat: Sequence[Message]) -> list[WrittenChat]:
    """Return a chat in which every turn of the assistant but a first one is learned: one row, or one for each of these turns.

    Args:
        codec: Knows the tokenizer, its template and what ends a turn.
        chat: Ends with a turn of the assistant.

    Raises:
        BehaviorError: The template refuses the chat.
    """
    places = [place for place, turn in enumerate(chat) if turn.role == "assistant" and place > 0]
    one = _as_one(codec, chat, places)
    return [one] if one is not None else [write_answer(codec, chat[:place], chat[place].content) for place in places]


def _as_one(codec: TextCodec, chat: Sequence[Message], places: Sequence[int]) -> WrittenChat | None:
    """Return the chat as one row; None where the tokens shown at a turn do not begin with those shown and said before."""
    known: Ids = ()
    spans: list[tuple[int, int]] = []
    for place in places:
        shown = _tokenise(codec, codec.render(chat[:place], generation_prompt=True))
        whole = _tokenise(codec, codec.render(chat[: place + 1], generation_prompt=False))
        said = _up_to_end(codec, whole[len(shown) :])
        if shown[: len(known)] != known or whole[: len(shown)] != shown or said is None:
            return None
        known = (*shown, *said)
        spans.append((len(shown), len(known)))
    start = spans[0][0]
    weights = np.zeros(len(known) - start, dtype=np.float32)
    for first, end in spans:
        weights[first - start : end - start] = 1.0
    return WrittenChat(
        prompt_ids=known[:start],
        completion_ids=known[start:],
        token_weights=weights if len(spans) > 1 else None,
        text="\n".join(chat[place].content for place in places),
    )


def _tokenise(codec: TextCodec, text: str) -> Ids:
    return tuple(codec.tokenizer(text, add_special_tokens=False)["input_ids"])


def _tokenise_behind(codec: TextCodec, shown: str, prompt: Ids, said: str) -> Ids:
    """Return the tokens of a text behind a prompt; those that it has alone where a token would span the border."""
    whole = _tokenise(codec, shown + said)
    return whole[len(prompt) :] if whole[: len(prompt)] == prompt else _tokenise(codec, said)


def _up_to_end(codec: TextCodec, ids: Ids) -> Ids | None:
    """Cut after the last token that ends a turn; None without one."""
    ends = [place for place, token in enumerate(ids) if token in codec.eos_ids]
    return ids[: ends[-1] + 1] if ends else None


def _not_yet_said(opening: str, answer: str) -> str:
    """Return the answer without what the opening has begun already, such as `<think>`."""
    overlap = next((size for size in range(len(opening), 0, -1) if answer.startswith(opening[-size:])), 0)
    return answer[overlap:]
