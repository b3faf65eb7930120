"""Delayed Ctrl-C: it takes effect when a step is complete, in all processes the same one."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from posttrain.trainers.distributed.launch import is_rank_zero


class StoppedAtOnceError(KeyboardInterrupt):
    """Ctrl-C came a second time within a block that must run to its end: its state cannot be saved."""


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Run a block to its end before a Ctrl-C takes effect; a second one ends it at once.

    Does nothing outside the main thread, inside another such block, or where the signal is handled elsewhere.

    Raises:
        KeyboardInterrupt: After the block, where one came during it.
        StoppedAtOnceError: Within the block, at the second one.
    """
    with _noted("stopping after this step; Ctrl-C again stops at once") as came:
        yield
    if came():
        raise KeyboardInterrupt


@contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Run a block to its end whatever happens, and let it ask whether a Ctrl-C came; a second one ends it at once.

    For one of several processes, which must stop where the others do. Never notes anything outside the main thread, or where the signal is
    handled elsewhere.

    Raises:
        StoppedAtOnceError: Within the block, at the second one.
    """
    with _noted("stopping after this step, for which torchrun waits half a minute" if is_rank_zero() else "") as came:
        yield came


@contextmanager
def _noted(answer: str) -> Iterator[Callable[[], bool]]:
    """Note Ctrl-C during a block, and print an answer to the first one unless it is empty."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came:
            raise StoppedAtOnceError
        came = True
        if answer:
            print(answer, file=sys.stderr, flush=True)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
