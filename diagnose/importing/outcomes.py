"""What the cells of a table say: right or wrong, why a sample ended, an id, a chat."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import read_messages, said_last
from posttrain.diagnose.importing.source_rows import as_float
from posttrain.diagnose.strict_settings import shorten
from posttrain.diagnose.types import Message, StopReason

_RIGHT = frozenset({"true", "t", "yes", "y", "correct", "right", "pass", "passed", "success", "solved", "c", "✓"})
_WRONG = frozenset({"false", "f", "no", "n", "incorrect", "wrong", "fail", "failed", "failure", "unsolved", "i", "✗"})
_MISSING = frozenset({"", "nan", "null", "none", "na", "n/a", "<na>", "-", "unscored", "error", "timeout"})
_STOPS = {
    **dict.fromkeys(("length", "max_tokens", "max_length", "max_output_tokens", "token_limit", "truncated"), StopReason.LENGTH),
    **dict.fromkeys(("eos", "stop", "end_turn", "end", "complete", "completed", "tool_calls"), StopReason.EOS),
    **dict.fromkeys(("stop_sequence", "stop_string", "stop_words"), StopReason.STOP),
    **dict.fromkeys(("error", "abort", "aborted", "timeout"), StopReason.ERROR),
}
ALLOWED = (
    "true or false, yes or no, correct or incorrect, pass or fail, 1 or 0, a finite score, or nothing where a sample has no grade"
)


def read_score(value: Any, where: str) -> float | None:
    """Return the score that a cell says, 1 for right and 0 for wrong; None where there is none.

    Args:
        value: A truth value, a number, a text or None.
        where: Its place, for messages.

    Raises:
        SourceError: It is none of these (`not_a_score`).
    """
    if isinstance(value, bool):
        return float(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _RIGHT or word in _WRONG:
        return float(word in _RIGHT)
    if word in _MISSING:
        return None
    number = as_float(value)
    if number is not None and not math.isinf(number):
        return None if math.isnan(number) else number
    raise SourceError(f"{where}: got {shorten(value)}; allowed: {ALLOWED}", code="not_a_score")


def is_score(value: Any) -> bool:
    """Return whether a cell says a score, or that there is none."""
    try:
        read_score(value, "")
    except SourceError:
        return False
    return True


def read_stop(value: Any, truncated: Any, where: str) -> StopReason:
    """Return why a sample ended, as a cell names it; unknown names are `UNKNOWN`.

    Args:
        value: A name, or None.
        truncated: What says whether it ran into the token limit, or None.
        where: Its place, for messages.
    """
    if truncated is not None and read_score(truncated, where):
        return StopReason.LENGTH
    found = _STOPS.get(value.strip().lower().rpartition(".")[2], StopReason.UNKNOWN) if isinstance(value, str) else None
    if found is None or found is StopReason.UNKNOWN:
        return StopReason.UNKNOWN if truncated is None else StopReason.EOS
    return found


def read_id(value: Any) -> str | None:
    """Return an id as text: numbers without a fraction as whole ones; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else str(value)
    return text if text and not text.isspace() else None


def read_text(value: Any, where: str) -> str | None:
    """Return what a model wrote: a text, or the last turn of a chat that is its own; None where there is none.

    Raises:
        SourceError: It is something else (`not_a_text`).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if (chat := read_chat(value, where)) is not None:
        return said_last(chat)
    if isinstance(value, (str, int, float)):
        return str(value)
    raise SourceError(
        f"{where}: got {shorten(value)} as what the model wrote; allowed is a text, a chat, or a list of texts beside a list of outcomes",
        code="not_a_text",
    )


def read_chat(value: Any, where: str) -> tuple[Message, ...] | None:
    """Return a list of `{"role", "content"}`, which may be written as text, as turns; None where it is none."""
    turns = read_list(value)
    if not turns or not all(isinstance(turn, Mapping) and isinstance(turn.get("role"), str) for turn in turns):
        return None
    return read_messages(turns, where)


def read_list(value: Any) -> list[Any] | None:
    """Return a list, which a table of texts holds as JSON or as Python writes it; None where it is none."""
    if isinstance(value, str):
        return _written_list(value)
    return list(value) if isinstance(value, (list, tuple)) else None


def _written_list(text: str) -> list[Any] | None:
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, list) else None
    return None
