"""Delayed stops: Ctrl-C, SIGTERM and SIGHUP take effect when a step is complete, in all processes the same one."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from posttrain.diagnose.errors import StoppedBySignal
from posttrain.trainers.distributed.launch import is_rank_zero

TERMINATION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a batch system, torchrun or a lost terminal sends."""


class StoppedAtOnceError(KeyboardInterrupt):
    """Ctrl-C came a second time within a block that must run to its end: its state cannot be saved."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP stop a block as Ctrl-C does, with a `StoppedBySignal`.

    Only the first of them counts: batch systems and torchrun send several, and the state is being saved by then. Does nothing outside the
    main thread, or to a signal that is handled or ignored elsewhere (`nohup` ignores SIGHUP).
    """
    in_main = threading.current_thread() is threading.main_thread()
    mine = [number for number in TERMINATION if in_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    """Handle the first SIGTERM or SIGHUP."""
    _ignore_termination()
    raise StoppedBySignal(number)


def _pass_over(number: int, frame: FrameType | None) -> None:
    """Handle the further ones. Children would inherit an ignored signal, but not a handled one."""


def _ignore_termination() -> None:
    for number in TERMINATION:
        if signal.getsignal(number) is _stop:
            signal.signal(number, _pass_over)


def interruption(number: int) -> KeyboardInterrupt:
    """Return what a signal raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else StoppedBySignal(number)


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Run a block to its end before a Ctrl-C, or what `stopped_by_signals` takes for one, has an effect; a second Ctrl-C ends it at once.

    Does nothing outside the main thread, inside another such block, or where the signal is handled elsewhere.

    Raises:
        KeyboardInterrupt: After the block, where one came during it.
        StoppedAtOnceError: Within the block, at the second one.
    """
    with _noted("stopping after this step; Ctrl-C again stops at once") as came:
        yield
    if number := came():
        raise interruption(number)


@contextmanager
def noted_interrupts() -> Iterator[Callable[[], int]]:
    """Run a block to its end whatever happens, and let it ask which signal came, 0 for none; a second Ctrl-C ends it at once.

    For one of several processes, which must stop where the others do. Never notes anything outside the main thread, or where the signal is
    handled elsewhere.

    Raises:
        StoppedAtOnceError: Within the block, at the second one.
    """
    with _noted("stopping after this step, for which torchrun waits half a minute" if is_rank_zero() else "") as came:
        yield came


@contextmanager
def _noted(answer: str) -> Iterator[Callable[[], int]]:
    """Note signals during a block, and print an answer to the first one unless it is empty."""
    came = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if came and number == signal.SIGINT:
            raise StoppedAtOnceError
        if not came and answer:
            print(answer, file=sys.stderr, flush=True)
        came = came or number

    handlers = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(TERMINATION, _stop)}
    in_main = threading.current_thread() is threading.main_thread()
    noted = {number: usual for number, usual in handlers.items() if in_main and signal.getsignal(number) is usual}
    for number in noted:
        signal.signal(number, note)
    try:
        yield lambda: came
    finally:
        for number, usual in noted.items():
            signal.signal(number, usual)
        if came:
            _ignore_termination()
