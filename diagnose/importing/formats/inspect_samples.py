"""One sample of an Inspect log: what was asked, what the model did, why it ended, how it was scored.

Source: `EvalSample`, `Score` and `ModelOutput` of inspect-ai 0.3.285.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from posttrain.diagnose.behaviors.row_contents import as_text
from posttrain.diagnose.importing.chat_messages import (
    ASSISTANT,
    Prompt,
    read_messages,
    read_prompt,
    said_last,
    several_turns,
    text_of,
)
from posttrain.diagnose.importing.formats.inspect_log import part
from posttrain.diagnose.importing.outcomes import is_score, read_score
from posttrain.diagnose.importing.source_rows import SourceRow, read_count
from posttrain.diagnose.types import Message, StopReason

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Correct, partially correct, incorrect, no answer, as `value_to_float` of inspect-ai turns them into numbers."""
STOPS = {
    "stop": StopReason.EOS,
    "tool_calls": StopReason.EOS,
    "max_tokens": StopReason.LENGTH,
    "model_length": StopReason.LENGTH,
}
"""Why a model ended, as Inspect names it; records of Every Eval Ever take the names over."""
_BY_A_PERSON = "operator"
"""The limit of a sample that a person stopped."""


@dataclass(frozen=True)
class InspectSample:
    """A sample of a log."""

    row: SourceRow

    @property
    def problem(self) -> str:
        """Return the id of its problem; empty where it has none."""
        found = self.row.get("id")
        return "" if found is None else str(found)

    @property
    def epoch(self) -> int:
        """Return which of the samples of its problem it is, from 1."""
        return self.row.count("epoch") or 1

    @property
    def answers(self) -> tuple[str, ...]:
        """Return what is right; of several targets each."""
        target = self.row.get("target")
        found = target if isinstance(target, list) else [target]
        return tuple(text for one in found if (text := as_text(one)))

    @property
    def prompt(self) -> Prompt | None:
        """Return what the model was given: all messages before its first own one, else the input of the task."""
        prompt = self._chat[0]
        return prompt or read_prompt(self.row.get("input"), f"{self.row.where}: input")

    @cached_property
    def turns(self) -> tuple[Message, ...]:
        """Return what was said after the prompt, where it is more than one message of the model."""
        return several_turns(self._chat[1])

    @property
    def text(self) -> str | None:
        """Return what the model wrote last, the text that scorers read; None where it failed before it wrote."""
        choices = part(self.row.values, "output").get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
            return text_of(part(choices[0], "message").get("content"))
        return said_last(self._chat[1]) or (None if self.failed else "")

    @property
    def failed(self) -> bool:
        """Return whether the sample ended with an error, was stopped by a person, or was declared invalid, so that its score says nothing."""
        was_stopped = part(self.row.values, "limit").get("type") == _BY_A_PERSON
        return bool(self.row.get("error")) or was_stopped or bool(self.row.get("invalidation"))

    @property
    def stop(self) -> StopReason:
        """Return why it ended; a limit on tokens, messages, time or cost truncates it."""
        if self.failed:
            return StopReason.ERROR
        if self.row.get("limit"):
            return StopReason.LENGTH
        choices = part(self.row.values, "output").get("choices")
        reason = (
            choices[0].get("stop_reason") if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else None
        )
        return STOPS.get(str(reason), StopReason.UNKNOWN)

    def num_tokens(self, model: str) -> int | None:
        """Return how many tokens the model generated, in all its turns; None where the log does not tell.

        Args:
            model: Its name; a model that graded is counted under its own.
        """
        output = part(self.row.values, "output", "usage")
        usage = (
            part(self.row.values, "model_usage", model) if self.turns else output or part(self.row.values, "model_usage", model)
        )
        return read_count(usage.get("output_tokens"), f"{self.row.where}: output_tokens")

    @cached_property
    def _values(self) -> dict[str, Any]:
        """Return what scorers said, by name; of a scorer that returns several values each as SCORER.KEY."""
        given = part(self.row.values, "scores") or ({"score": self.row.get("score")} if self.row.get("score") else {})
        values: dict[str, Any] = {}
        for name, one in given.items():
            value = one.get("value") if isinstance(one, Mapping) else one
            values |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {name: value}
        return values

    @property
    def scores(self) -> dict[str, float | None]:
        """Return every score by its name; one that is neither a number nor a word for right or wrong is left out."""
        return {name: _number(value) for name, value in self._values.items() if _is_score(value)}

    @property
    def no_scores(self) -> frozenset[str]:
        """Return the names of scorers that said something that is neither a number nor a word for right or wrong, such as a grade from A to F."""
        return frozenset(name for name, value in self._values.items() if not _is_score(value))

    @cached_property
    def _chat(self) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """Return the messages before the first that the model wrote, and all from it on."""
        messages = self.row.get("messages")
        if not isinstance(messages, list) or not messages:
            return (), ()
        own = [i for i, one in enumerate(messages) if isinstance(one, Mapping) and one.get("role") == ASSISTANT]
        generated = [i for i in own if messages[i].get("source") == "generate"]
        examples = [i for i in own if messages[i].get("source") == "input"]
        start = next(iter(generated or [i for i in own if i not in examples]), len(messages))
        chat = read_messages([_with_calls(one) for one in messages], f"{self.row.where}: messages")
        return chat[:start], chat[start:]


def _with_calls(message: Any) -> Any:
    """Return a message whose calls of tools stand as chat templates read them: Inspect stores the name of the tool as `function`."""
    if not isinstance(message, Mapping) or not isinstance(calls := message.get("tool_calls"), list):
        return message
    nested = [
        {"id": one.get("id"), "type": "function", "function": {"name": one.get("function"), "arguments": one.get("arguments")}}
        if isinstance(one, Mapping)
        else one
        for one in calls
    ]
    return {**message, "tool_calls": nested}


def _is_score(value: Any) -> bool:
    return (isinstance(value, str) and value in _LETTERS) or is_score(value)


def _number(value: Any) -> float | None:
    return _LETTERS[value] if isinstance(value, str) and value in _LETTERS else read_score(value, "")
