"""Progress on stderr: bars on a terminal; elsewhere a line now and then, and one when a task ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Task:
    """A piece of work under way."""

    def __init__(self, *, progress: Progress | None = None, task_id: object = None, lines: ProgressLines | None = None):
        self._progress, self._task_id, self._lines = progress, task_id, lines
        self._tokens, self._start = 0, time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Count some units of the work as done."""
        if self._lines is not None:
            self._lines.advance(steps)
        if self._progress is not None:
            self._progress.advance(self._task_id, steps)  # type: ignore[arg-type]

    def expect(self, total: int) -> None:
        """Set how many units there are."""
        if self._lines is not None:
            self._lines.total = total
        if self._progress is not None:
            self._progress.update(self._task_id, total=total)  # type: ignore[arg-type]

    def tokens(self, num: int) -> None:
        """Count some tokens; they are shown as a rate."""
        self._tokens += num
        self.note(f"{self._tokens:,} tokens, {self._tokens / max(1e-3, time.monotonic() - self._start):,.0f}/s")

    def note(self, text: str) -> None:
        """Show a text beside the bar."""
        if self._lines is not None:
            self._lines.note(text)
        if self._progress is not None:
            self._progress.update(self._task_id, note=text)  # type: ignore[arg-type]

    @property
    def rate_note(self) -> str:
        """The tokens so far, for a log line."""
        return f", {self._tokens:,} tokens" if self._tokens else ""


class ProgressLines:
    """Prints how far a task is, as a line every few seconds at most, where there is no terminal for a bar."""

    def __init__(self, description: str, total: int | None, every: float):
        """Take what is done.

        Args:
            description: What the lines begin with.
            total: Units of the whole; None where that is unknown.
            every: Seconds between two lines.
        """
        self.total = total
        self._description, self._every, self._done, self._note = description, every, 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, steps: int) -> None:
        """Count some units of the work as done."""
        self._done += steps
        self._print()

    def note(self, text: str) -> None:
        """Take a text that stands behind the numbers."""
        self._note = text
        self._print()

    def _print(self) -> None:
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        done = f"{self._done:,}" + (f" of {self.total:,} ({self._done / self.total:.0%})" if self.total else "")
        parts = [done if self._done or self.total else "", self._note, f"{now - self._start:.0f} s"]
        print(f"{self._description}: {', '.join(part for part in parts if part)}", file=sys.stderr, flush=True)


class Recorder(Protocol):
    """Takes numbers of a run while it runs; `tracking.SafeTracker` is one."""

    def log(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Take the numbers among these values."""

    def close(self) -> None:
        """Send what is left."""


class Reporter:
    """Shows tasks: as bars on a terminal, elsewhere as lines now and then and when a task ends; `quiet` shows nothing.

    Args:
        quiet: Whether nothing is shown.
        tracker: Takes the numbers of the run; see `tracking.open_tracker`.
        line_every: Seconds between two lines of a task, where there is no terminal.
    """

    def __init__(self, *, quiet: bool = False, tracker: Recorder | None = None, line_every: float = 10.0):
        self.quiet, self.line_every = quiet, line_every
        self.tracker = tracker

    @cached_property
    def console(self) -> Console:
        """Return what lines and bars go to."""
        from rich.console import Console  # not before something is shown

        return Console(stderr=True)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.tracker is not None:
            self.tracker.close()

    def record(self, values: Mapping[str, object], step: int | None = None) -> None:
        """Hand numbers to the tracker, where there is one."""
        if self.tracker is not None:
            self.tracker.log(values, step)

    def say(self, text: str) -> None:
        """Print one line for people."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False)

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Task]:
        """Show a piece of work of `total` units; None when its length is unknown."""
        start = time.monotonic()
        if self.quiet or not self.console.is_terminal:
            task = Task(lines=None if self.quiet else ProgressLines(description, total, self.line_every))
            yield task
            if not self.quiet and time.monotonic() - start > 1:
                print(f"{description}: {time.monotonic() - start:.0f} s{task.rate_note}", file=sys.stderr, flush=True)
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn()]
        with Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console
        ) as progress:
            yield Task(progress=progress, task_id=progress.add_task(description, total=total, note=""))
