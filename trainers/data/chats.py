"""Chats as rendered texts with the spans that are learned: what the model is shown at each turn and what it says there, by its template alone.

What is shown at a turn is the template's rendering of everything before it, with the opening of an answer; what is learned is what the
rendering of the chat with the answer has behind their common beginning, up to what ends the turn. So what the template writes before an
answer (`<think>\\n\\n</think>\\n\\n`, say) is learned with it. A chat whose rendering holds every turn as the model sees and says it is one row.
Templates that write earlier turns differently once later ones follow (they drop earlier thinking, say) show the model another text at each
turn, so each turn is a row of its own.

This is what TRL does with a prompt and a completion, applied to every turn, but for four differences. What a template writes behind the end
of the turn (a line break) is not learned: nothing is sampled there. A turn that the template ends with nothing gets the end token, so that
the model learns to stop. A prompt that ends with the assistant's own words is gone on with and not closed. Where the template hides the
reasoning of a finished answer, the answer is learned as it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.diagnose.behaviors.chat_turns import SPOKEN_KEYS
from posttrain.diagnose.engines.codec import TextCodec
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

_FEW_TURNS = 4
"""Learned turns up to which each is rendered with everything before it; further ones are rendered with the turns since the last user's alone."""
_FEW_CHARACTERS = 1 << 15
"""Characters up to which a chat is rendered together with others, which share the time and the memory that the template may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedSpan:
    """Where a rendered chat is learned."""

    start: int
    """First character that differs from what the model is shown."""
    end: int
    shown_rest: str
    """How what is shown goes on at `start`, where the template writes a finished answer otherwise than it opens one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedChat:
    """A chat, or one turn of it, as text."""

    text: str
    """What the template writes, up to the end of the last turn that is learned."""
    spans: tuple[LearnedSpan, ...]
    is_ended: bool
    """Whether the text ends with a token that ends a turn; the end token is to be added otherwise."""
    answer: str
    """What the assistant says in the learned turns, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRow:
    """A chat to be rendered."""

    turns: tuple[Message, ...]
    """Ends with a turn of the assistant that is learned."""
    learned: tuple[int, ...]
    """Places of the turns that are learned, in order; none is 0."""
    prefill: str | None = None
    """What the last turn begins with and is shown, where the prompt ends within it."""
    tools: tuple[Mapping[str, Any], ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    written: dict[tuple[int, int, bool], str] = field(default_factory=dict, compare=False)
    """What the template is known to write for turns, by the first one, the place behind the last one, and whether an answer is opened there."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """A learned turn as rendered, from a place on up to which everything is in the rendering of the whole chat already."""

    offset: int
    """[characters] of the whole rendering that stand before `shown` and `whole`."""
    shown: str
    whole: str


class ChatRenderer:
    """Renders chats with the template of a codec."""

    def __init__(self, codec: TextCodec):
        """Take a codec with a chat template."""
        assert codec.template is not None
        self._codec, self._template = codec, codec.template
        self._end_texts = tuple(str(token) for token in codec.tokenizer.convert_ids_to_tokens(sorted(codec.eos_ids)))

    def prefetch(self, rows: Sequence[ChatRow]) -> bool:
        """Render rows in one exchange, but for long ones, and return whether the template failed on nothing; `render` asks again where it did."""
        asked = [
            (row, end, opens)
            for row in rows
            if len(row.learned) <= _FEW_TURNS
            and sum(len(turn.content) + len(turn.extra) for turn in row.turns) <= _FEW_CHARACTERS
            for place in row.learned
            for end, opens in ((place + 1, False), (place, True))
            if not (opens and row.prefill is not None)
        ]
        request = self._template.request
        texts = self._template.render_all(
            [
                request(row.turns[:end], generation_prompt=opens, tools=row.tools, arguments=row.arguments)
                for row, end, opens in asked
            ]
        )
        for (row, end, opens), text in zip(asked, texts, strict=True):
            if isinstance(text, str):
                row.written[0, end, opens] = text
        return all(isinstance(text, str) for text in texts)

    def render(self, row: ChatRow) -> list[RenderedChat]:
        """Return a chat as one text in which all its turns are learned, or as a text for each of them.

        Raises:
            BehaviorError: The template refuses the chat, or does not read something that is learned.
        """
        last = row.learned[-1]
        self._codec.refuse_dropped(row.turns[:last], self._shown(row, last), tools=row.tools, arguments=row.arguments)
        if row.prefill is not None:
            return [self._one_turn(row, row.learned[-1])]
        one = self._as_one(row) if len(row.learned) > 1 else None
        return [one] if one is not None else [self._one_turn(row, place) for place in row.learned]

    def _shown(self, row: ChatRow, place: int, first: int = 0) -> str:
        if row.prefill is not None:
            begun = row.turns[place]._replace(content=row.prefill)
            before = (*self._head(row, first), *row.turns[first:place])
            return self._codec.render_prompt((*before, begun), tools=row.tools, arguments=row.arguments)
        return self._written(row, first, place, opens=True)

    def _whole(self, row: ChatRow, place: int, first: int = 0) -> str:
        return self._written(row, first, place + 1, opens=False)

    def _written(self, row: ChatRow, first: int, end: int, *, opens: bool) -> str:
        key = first, end, opens
        if key not in row.written:
            turns = (*self._head(row, first), *row.turns[first:end])
            row.written[key] = self._template.render(turns, generation_prompt=opens, tools=row.tools, arguments=row.arguments)
        return row.written[key]

    @staticmethod
    def _head(row: ChatRow, first: int) -> tuple[Message, ...]:
        """Return the system message, where a rendering begins later in the chat."""
        return row.turns[:1] if first and row.turns[0].role in ("system", "developer") else ()

    # ------------------------------------------------------------------------------------------------------------ one turn

    def _one_turn(self, row: ChatRow, place: int) -> RenderedChat:
        shown, whole = self._shown(row, place), self._whole(row, place)
        answer = row.turns[place]
        words = answer.content if row.prefill is None else answer.content[len(row.prefill) :]
        start = _num_common(shown, whole)
        _refuse_lost(answer, whole[start:])
        said = _start_of(whole, words, start) if row.prefill is not None and start < len(shown) else 0
        if said > start:
            # The template writes what the prompt has begun otherwise in a finished answer; that is not learned either
            start, shown = said, whole[:said]
        if start < len(shown) and not _holds(whole[start:], words):
            # The template hides a part of a finished answer, its reasoning say, which the model would have to say
            begun = self._template.render(row.turns[:place], tools=row.tools, arguments=row.arguments)
            opening = shown[len(begun) :] if shown.startswith(begun) else ""
            whole, start = shown + _not_yet_said(opening, words), len(shown)
        end = self._last_end(whole, start)
        is_ended = end is not None
        if end is None:
            end = max(len(whole.rstrip()), _end_of(whole, answer.content, start), start)
        span = LearnedSpan(start=start, end=end, shown_rest=shown[start:])
        return RenderedChat(text=whole[:end], spans=(span,), is_ended=is_ended, answer=words)

    def _last_end(self, text: str, start: int, end: int | None = None) -> int | None:
        """Return where the last token that ends a turn ends, between two places; None where there is none."""
        stop = len(text) if end is None else end
        ends = [place + len(token) for token in self._end_texts if (place := text.rfind(token, start, stop)) >= 0]
        return max(ends, default=None)

    # ------------------------------------------------------------------------------------------------------- several turns

    def _as_one(self, row: ChatRow) -> RenderedChat | None:
        """Return the chat as one text; None where it does not hold each turn as the model sees and says it."""
        whole = self._whole(row, row.learned[-1])
        spans: list[LearnedSpan] = []
        for place, turn in zip(row.learned, self._turns(row, whole, spans), strict=True):
            span = self._span(turn, whole, row.turns[place], is_last=place == row.learned[-1])
            if span is None or (spans and span.start < spans[-1].end):
                return None
            spans.append(span)
        return RenderedChat(
            text=whole[: spans[-1].end],
            spans=tuple(spans),
            is_ended=whole.endswith(self._end_texts, 0, spans[-1].end),
            answer="\n".join(row.turns[place].content for place in row.learned),
        )

    def _span(self, turn: _Turn, text: str, answer: Message, *, is_last: bool) -> LearnedSpan | None:
        """Return where a text holds a turn; None where it holds something else."""
        same = _num_common(turn.whole, text, turn.offset)
        start = _num_common(turn.shown, turn.whole)
        _refuse_lost(answer, turn.whole[start:])
        if same < start or (start < len(turn.shown) and not _holds(turn.whole[start:], answer.content)):
            return None
        end = self._last_end(turn.whole, start, same)
        if end is None and same == len(turn.whole):
            if is_last:
                end = max(len(turn.whole.rstrip()), _end_of(turn.whole, answer.content, start), start)
            else:  # what begins the next turn may end this one, as in GLM
                end = next((same + len(t) for t in self._end_texts if text.startswith(t, turn.offset + same)), None)
        if end is None or not _holds(turn.whole[start:end], _visible(turn.whole[start:], answer.content)):
            return None
        return LearnedSpan(start=turn.offset + start, end=turn.offset + end, shown_rest=turn.shown[start:])

    def _turns(self, row: ChatRow, text: str, spans: Sequence[LearnedSpan]) -> Iterator[_Turn]:
        """Yield each learned turn; `spans` holds those of the turns before it when it is asked for.

        Rendering every turn with all before it takes a time that grows with the square of the chat. So in a long chat a turn is rendered
        with the turns since the last one of the user, behind the end of the learned turn before: where that end stands in such a rendering is
        measured once against a whole one. A rendering that is not found in the text again is not used.
        """
        lead: int | None = None
        for number, place in enumerate(row.learned):
            first = self._first(row, number) if len(row.learned) > _FEW_TURNS else None
            if first is None:
                yield self._from_the_start(row, place, text)
                continue
            offset = spans[row.learned.index(first - 1)].end
            shown = self._shown(row, place, first)
            if lead is None:
                turn = self._from_the_start(row, place, text)
                lead = len(shown) - (len(turn.shown) - offset)
                if not 0 <= lead <= len(shown) or shown[lead:] != turn.shown[offset:]:
                    lead = None
                yield turn
                continue
            whole = self._whole(row, place, first)
            turn = _Turn(offset, shown[lead:], whole[lead:])
            if _num_common(turn.whole, text, offset) < _num_common(turn.shown, turn.whole):
                turn = self._from_the_start(row, place, text)
            yield turn

    def _from_the_start(self, row: ChatRow, place: int, text: str) -> _Turn:
        return _Turn(0, self._shown(row, place), text if place == row.learned[-1] else self._whole(row, place))

    @staticmethod
    def _first(row: ChatRow, number: int) -> int | None:
        """Return the last turn of the user before a learned turn, where a learned turn stands right before it; None otherwise."""
        place = row.learned[number]
        first = next((i for i in range(place - 1, 0, -1) if row.turns[i].role == "user"), None)
        return first if first is not None and first - 1 in row.learned[:number] else None


def _refuse_lost(answer: Message, written: str) -> None:
    """Refuse what the assistant says beside its content where the template passes it over: the model would learn something else than it says."""
    if not answer.extra:
        return
    turn = answer.as_turn()
    spoken = turn.keys() & set(SPOKEN_KEYS)
    if "tool_calls" in spoken and answer.content:
        spoken.add("content")
        turn["content"] = answer.content.rpartition("</think>")[2]  # earlier thinking may be hidden
    rest = written  # but the texts, for they may name what is called
    for text in (turn[key].strip() for key in sorted(spoken) if isinstance(turn[key], str)):
        rest = rest.replace(text, "", 1) if text else rest
    for key in sorted(spoken):
        if isinstance(turn[key], str):
            is_written = _holds(written, turn[key])
        else:
            names = [_name(call) for call in turn[key]]
            is_written = all(rest.count(name) >= names.count(name) for name in names)
        if not is_written:
            raise BehaviorError(
                f"got a turn with {key}, which the model's chat template does not write{' beside tool calls' if key == 'content' else ''}; "
                f"{'leave it' if key == 'content' else 'write it into content as the model would, or leave it'} out",
                code="not_read_by_template",
            )


def _name(call: Mapping[str, Any]) -> str:
    """Return the name of what a tool call calls; empty where it names nothing."""
    function = call.get("function", call)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _num_common(text: str, other: str, offset: int = 0) -> int:
    """Return how many characters a text has in common with another one from an offset on."""
    if other.startswith(text, offset):
        return len(text)
    low, high = 0, min(len(text), len(other) - offset)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if other.startswith(text[low:middle], offset + low) else (low, middle - 1)
    return low


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _holds(text: str, words: str) -> bool:
    """Return whether a text holds words, whatever the blanks: templates trim them and put line breaks around tags."""
    return words in text or _squeezed(words) in _squeezed(text)


def _visible(said: str, words: str) -> str:
    """Return the words of an answer where the template writes them, and nothing where it changes them."""
    return words if _holds(said, words) else ""


def _end_of(text: str, words: str, start: int) -> int:
    """Return where words end in a text, with the blanks at their end; 0 where they are not in it."""
    place = text.rfind(words, start)
    return place + len(words) if place >= 0 else 0


def _start_of(text: str, words: str, start: int) -> int:
    """Return where words begin in a text from a place on, at their last occurrence, whatever the blanks; 0 where they are not in it."""
    if (place := text.rfind(words, start)) >= 0:
        return place
    places = [place for place in range(start, len(text)) if not text[place].isspace()]
    found = "".join(text[place] for place in places).rfind(_squeezed(words))
    return places[found] if 0 <= found < len(places) else 0


def _not_yet_said(opening: str, answer: str) -> str:
    """Return the answer without what the opening has begun already, such as `<think>`."""
    overlap = next((size for size in range(len(opening), 0, -1) if answer.startswith(opening[-size:])), 0)
    return answer[overlap:]
