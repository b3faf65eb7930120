"""What an environment offers, whichever generation of the library it is written for."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from posttrain.diagnose.verifiers.environments.refusal import MULTI_TURN, RUN_THERE, EnvironmentRefused

ChatTurns = str | list[dict[str, str]]
_CLIENTS = frozenset({"openai", "anthropic"})
"""Packages whose objects ask models over the network."""


class RewardRange(NamedTuple):
    """Between which numbers rewards lie where each function gives 0 to 1."""

    low: float
    high: float


class EnvironmentRow(NamedTuple):
    """A problem as the environment has it."""

    name: str
    """Its id; not always unique."""
    prompt: ChatTurns
    """A text, or turns of a chat, each with `role` and `content`."""
    answer: str
    """The expected answer where it is a text or a number; else empty."""
    entry: Mapping[str, Any]
    """What the grader needs, as JSON can hold it."""


class Environment(ABC):
    """One environment, loaded (child process)."""

    has_one_set: ClassVar[bool] = False
    """Whether it does not tell problems to train on from those to measure."""
    reads_thoughts = False
    """Whether its parser reads the thought before an answer itself, so that it must not be cut off."""

    @abstractmethod
    def rows(self, split: str, size: int | None) -> Iterator[EnvironmentRow] | None:
        """Return the problems of its `train` or `eval` set, at most `size`; None where it has no such set."""

    @abstractmethod
    def reward_range(self) -> RewardRange:
        """Return where its rewards lie."""

    @abstractmethod
    def grade(self, entry: Mapping[str, Any], prompt: ChatTurns, text: str) -> float:
        """Return the reward of a text.

        Raises:
            EnvironmentRefused: It asks twice, or something else than its data set.
            RewardFailed: A reward function raised.
            Exception: What else of its code raised.
        """


def multi_turn(name: str, why: str, instead: str = RUN_THERE) -> EnvironmentRefused:
    """Return the refusal of an environment that is more than one question and one answer, with what to do instead."""
    return EnvironmentRefused(
        f"environment {name}: {why}; allowed: environments of one turn without tools; {instead}", MULTI_TURN
    )


def asks_model(name: str, what: str) -> EnvironmentRefused:
    """Return the refusal of a grader that asks a model."""
    return EnvironmentRefused(
        f"environment {name}: its grader asks a model ({what}), which needs the network; allowed: graders that compute; give the behavior a verifier of ours, "
        f"such as `verifier: {{kind: judge, ...}}`, or {RUN_THERE}",
        "environment_judge",
    )


def needs_network(name: str, host: str) -> EnvironmentRefused:
    """Return the refusal of a grader that asked for the network."""
    return EnvironmentRefused(
        f"environment {name}: its grader asked for the network ({host}), which is kept from it; allowed: graders that compute; give the behavior a verifier of "
        f"ours, or {RUN_THERE}",
        "environment_network",
    )


def reward_range(weights: Iterable[float]) -> RewardRange:
    """Return where a weighted sum of numbers between 0 and 1 lies."""
    weights = list(weights)
    return RewardRange(sum(min(0.0, one) for one in weights), sum(max(0.0, one) for one in weights))


def client_in(function: Callable[..., Any], judges: tuple[type, ...] = ()) -> str | None:
    """Return what asks models among the things that a function names: a parameter, a client object, or a class of judges.

    Args:
        function: A reward function.
        judges: Classes whose subclasses ask models.
    """
    function = inspect.unwrap(getattr(function, "__func__", function))
    if not inspect.isfunction(function):
        return None
    if "judge" in inspect.signature(function).parameters:
        return "the parameter judge"
    named = inspect.getclosurevars(function)
    for name, value in {**named.globals, **named.nonlocals}.items():
        kind = value if isinstance(value, type) else type(value)
        is_client = not isinstance(value, type) and kind.__module__.partition(".")[0] in _CLIENTS and kind.__name__ != "module"
        if is_client or (judges and issubclass(kind, judges)):
            return name
    return None


def plain_answer(value: Any) -> str:
    """Return an expected answer as a text; empty where it is neither a text nor a number."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def plain_turns(name: str, prompt: Any) -> ChatTurns:
    """Return a prompt as a text, or as turns with role and content.

    Raises:
        EnvironmentRefused: It holds an image, a sound or a tool call, or is none.
    """
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list) or not prompt:
        raise multi_turn(name, f"a problem has no prompt (got {prompt!r:.60}), so that something else opens the conversation")
    turns = []
    for turn in prompt:
        filled = {key: value for key, value in turn.items() if value not in (None, [], {})}
        content = filled.get("content", "")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        other = sorted(set(filled) - {"role", "content"}) + [
            str(part.get("type")) for part in parts if part.get("type") != "text"
        ]
        if other or "role" not in filled:
            raise EnvironmentRefused(
                f"environment {name}: got a prompt with {', '.join(other) or 'a turn without role'}; allowed: turns of text; {RUN_THERE}",
                "environment_prompt",
            )
        turns.append({"role": str(filled["role"]), "content": "\n".join(str(part["text"]) for part in parts)})
    return turns
