"""The other side of a pool: what runs in each Ray actor, and how it reports progress."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import PosttrainError

POLL_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of an engine's method, which reports its progress to `on_tokens`."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    what: str
    """What it does, for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a call gave: a result or an error."""

    result: Any = None
    error: PosttrainError | None = None
    reported: tuple[int, ...] = ()
    """Every number that on_tokens was called with."""


class Cancelled(KeyboardInterrupt):
    """The result of this call is not wanted any more."""


class ProgressBoard:
    """An actor to which workers report progress, and which knows the calls that are cancelled."""

    def __init__(self) -> None:
        """Start empty."""
        self._unread: list[tuple[int, int, list[int]]] = []
        self._cancelled: set[int] = set()

    def report(self, number: int, start: int, reported: list[int]) -> bool:
        """Take the numbers that a call reported from the `start`-th on; return whether it is cancelled."""
        self._unread.append((number, start, reported))
        return number in self._cancelled

    def take(self) -> list[tuple[int, int, list[int]]]:
        """Return what was reported since the last call of this method."""
        unread, self._unread = self._unread, []
        return unread

    def cancel(self, numbers: list[int]) -> None:
        """Mark calls as cancelled."""
        self._cancelled.update(numbers)


class _ProgressReporter:
    """The on_tokens of a call in a worker: reports to the board a few times a second, and never waits for it."""

    def __init__(self, board: Any, number: int):
        """Take the board's actor and the number of the call."""
        self.reported: list[int] = []
        self._board, self._number = board, number
        self._sent, self._last = 0, -1.0
        self._answer: Any = None

    def __call__(self, num_tokens: int) -> None:
        """Count tokens; see `OnTokens`.

        Raises:
            Cancelled: The call is cancelled.
        """
        self.reported.append(num_tokens)
        if time.monotonic() - self._last < POLL_SECONDS:
            return
        self._last = time.monotonic()
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(RayError):  # without a board there is no progress, and the result is the same
                if ray.get(self._answer):
                    raise Cancelled
        self._answer = self._board.report.remote(self._number, self._sent, self.reported[self._sent :])
        self._sent = len(self.reported)


class Worker:
    """Holds one engine in a process of its own. Replies are bytes: arrays that Ray hands over itself can only be read."""

    def __init__(self, opener: Callable[[], Engine], board: Any):
        """Take what opens the engine, and the board's actor."""
        self._opener, self._board = opener, board

    def place(self) -> str:
        """Return where this process runs."""
        return f"{socket.gethostname()} (process {os.getpid()})"

    def open(self) -> bytes:
        """Open the engine; return its info and its codec."""
        try:
            self._engine = self._opener()
        except PosttrainError as error:
            return pickle.dumps(Reply(error=error))
        return pickle.dumps(Reply(result=(self._engine.info, self._engine.codec)))

    def call(self, number: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Call a method of the engine; those that sample or score take on_tokens too."""
        reporter = _ProgressReporter(self._board, number)
        heard = {} if method == "check_sampling" else {"on_tokens": reporter}
        try:
            result = getattr(self._engine, method)(*args, **kwargs, **heard)
        except Cancelled:
            return pickle.dumps(Reply())
        except PosttrainError as error:
            return pickle.dumps(Reply(error=error))
        return pickle.dumps(Reply(result=result, reported=tuple(reporter.reported)))
