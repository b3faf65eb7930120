"""A child process that answers lines with lines, watched from outside: it may hang, die or flood, and the caller goes on."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import site
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from posttrain.diagnose.errors import VerifierError

CHILD_SCRIPT = Path(__file__).resolve().with_name("bootstrap.py")
START_SECONDS = 60.0
"""That starting a child, and isolating it, may take."""
SPARE_SECONDS = 2.0
"""For a child to say that its own limit of time has ended it."""
_CHUNK = 1 << 16
_LONGEST_LINE = 16 << 20


class ChildEnded(Exception):
    """The child is gone; `detail` says how."""

    def __init__(self, detail: str, signal_name: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.signal_name = signal_name


class Child:
    """One running child. Lines are queued with `send` and come back with `receive`; nothing here blocks for longer than asked."""

    def __init__(self, command: Sequence[str], variables: Sequence[str] = ()) -> None:
        """Start a command.

        Args:
            command: Program and arguments.
            variables: Environment variables of the user that it is given, where they are set.
        """
        self._folder = tempfile.mkdtemp(prefix="posttrain-verifier-")
        self._stderr_path = Path(self._folder) / "stderr.txt"
        try:
            with self._stderr_path.open("wb") as stderr:
                # In its own session: Ctrl-C is for the parent, and what the child started can be killed with it.
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd=self._folder,
                    env=_environment(variables),
                    start_new_session=True,
                    bufsize=0,
                )
        except OSError as error:
            self._remove_folder()
            raise VerifierError(f"the verifier process cannot be started: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self._searched = 0
        self._closed = False

    def send(self, line: bytes) -> None:
        """Queue a line; it is written while `receive` waits."""
        self._outgoing += line + b"\n"

    def receive(self, timeout: float) -> bytes | None:
        """Wait for one line.

        Returns:
            The line, or None when `timeout` seconds passed without one.

        Raises:
            ChildEnded: If the child closed its output, or its line is longer than 16 MiB.
        """
        end = time.monotonic() + timeout
        while True:
            found = self._incoming.find(b"\n", self._searched)
            if found >= 0:
                line = bytes(self._incoming[:found])
                del self._incoming[: found + 1]
                self._searched = 0
                return line
            self._searched = len(self._incoming)
            if self._searched > _LONGEST_LINE:
                raise ChildEnded(f"the process wrote more than {_LONGEST_LINE >> 20} MiB without an end")
            remaining = end - time.monotonic()
            self._exchange(max(0.0, remaining))
            # A child that floods without ever ending its line is late as well.
            if remaining <= 0.0 and self._incoming.find(b"\n", self._searched) < 0:
                return None

    def _exchange(self, timeout: float) -> None:
        """Write and read what is possible within the time."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if self._outgoing:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            ready = selector.select(timeout)
        for key, _ in ready:
            if key.fileobj is self._stdin:
                try:
                    written = os.write(self._stdin.fileno(), self._outgoing[:_CHUNK])
                except BrokenPipeError:
                    # Replies that were sent before the end are still to be read; its end is seen on stdout.
                    self._outgoing.clear()
                else:
                    del self._outgoing[:written]
            else:
                chunk = os.read(self._stdout.fileno(), _CHUNK)
                if not chunk:
                    raise self._ending()
                self._incoming += chunk

    def _ending(self) -> ChildEnded:
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return ChildEnded("the verifier process closed its output")
        if code < 0:
            name = signal.Signals(-code).name
            return ChildEnded(f"the verifier process was ended by {name}", name)
        return ChildEnded(f"the verifier process ended with code {code}")

    def stderr_tail(self) -> str:
        """Return the end of what the child complained about, on one line."""
        try:
            return " ".join(self._stderr_path.read_text(encoding="utf-8", errors="replace").split())[-300:]
        except OSError:
            return ""

    def close(self) -> None:
        """Kill the child and what it started, collect it, remove its folder. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Not collected yet, so the number cannot belong to another process.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.wait()
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _environment(variables: Sequence[str]) -> dict[str, str]:
    """Return what python needs, what is asked for, and nothing else of the user's: no tokens, no proxies."""
    environment = {
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Each thread of a numeric library reserves address space, which is limited here.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if site.ENABLE_USER_SITE:
        environment["PYTHONUSERBASE"] = site.getuserbase()
    for name in ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", *variables):
        if name in os.environ:
            environment[name] = os.environ[name]
    return environment
