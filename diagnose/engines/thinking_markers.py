"""Which markers a model's own chat template puts around a thought: what it writes around one, or cuts off an earlier turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from posttrain.diagnose.engines.chat_template import ChatTemplate
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.types import Message

_THOUGHT, _ANSWER = "posttrainthought", "posttrainanswer"
_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Where a turn holds its thought, by the names that chat templates give it."""
_CUT_AT = re.compile(r"""\.r?(?:split|partition)\(\s*(['"])([^'"\\\s]{2,60})\1""")
"""A text at which a template cuts a content."""
_LAST_MARK = re.compile(r"(?:<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\]|[^\s<>\[\]]{1,60})\Z")
_LONGEST = 80
_ASKED = Message("user", "?")


def thinking_markers(template: ChatTemplate, arguments: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
    """Return the opening and the closing marker of a thought, as the template has them; None where it has none.

    Args:
        template: Is asked to write a turn with a thought, and a later turn behind one.
        arguments: Further variables of the template.
    """
    for key in _KEYS:
        if template.reads(key) and (found := _written_around(template, key, arguments)) is not None:
            return found
    cuts = list(dict.fromkeys(match[2] for match in _CUT_AT.finditer(template.source)))
    for closing in cuts:
        if _is_cut_off(template, closing, arguments) and (opening := _opening_of(closing, cuts)) is not None:
            return opening, closing
    return None


def _written_around(template: ChatTemplate, key: str, arguments: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Return what the template writes before and behind a thought that stands in a turn of its own key."""
    thought = Message("assistant", _ANSWER, json.dumps({key: _THOUGHT}))
    written = _render(template, [_ASKED, thought], arguments)
    without = _render(template, [_ASKED, Message("assistant", _ANSWER)], arguments)
    before, _, rest = written.partition(_THOUGHT)
    closing, found, _ = rest.partition(_ANSWER)
    if not found:
        return None
    num_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(written, without, strict=False)))
    opening = before[num_shared:].strip()
    if not opening and (last := _LAST_MARK.search(before.rstrip())):  # the template opens a thought in every answer
        opening = last[0]
    closing = closing.strip()
    return (opening, closing) if opening != closing and 0 < len(opening) <= _LONGEST and 0 < len(closing) <= _LONGEST else None


def _is_cut_off(template: ChatTemplate, closing: str, arguments: Mapping[str, Any] | None) -> bool:
    """Return whether the template leaves out what stands before a text in an earlier answer."""
    written = _render(template, [_ASKED, Message("assistant", f"{_THOUGHT}{closing}{_ANSWER}"), _ASKED], arguments)
    return _ANSWER in written and _THOUGHT not in written


def _opening_of(closing: str, cuts: Sequence[str]) -> str | None:
    """Return the marker that belongs to a closing one: the same without its slash, or the other text at which the template cuts."""
    if "/" in closing:
        return closing.replace("/", "", 1)
    others = [one for one in cuts if one != closing]
    return others[0] if len(others) == 1 else None


def _render(template: ChatTemplate, chat: Sequence[Message], arguments: Mapping[str, Any] | None) -> str:
    try:
        return template.render(chat, arguments=arguments)
    except BehaviorError:
        return ""
