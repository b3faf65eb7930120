"""Runs a program's tests: the program in a new isolated process, its tests in another, and this one between them.

What the program's process says is handed on to the tests unread, and only the process of the tests, which knows a number that is made
anew for each run, gives a verdict. So a program can end its process early, print what it likes or change all that it can reach: it
passes only by returning what the tests want.
"""

from __future__ import annotations

import json
import secrets
import time
import weakref
from enum import StrEnum
from typing import Any, NamedTuple

from posttrain.diagnose.errors import VerifierError
from posttrain.diagnose.verifiers.sandbox.child_process import SPARE_SECONDS, START_SECONDS, Child, ChildEnded
from posttrain.diagnose.verifiers.sandbox.isolation import BOOTSTRAP, Isolation, confinement, isolated_command

_OWN_CODE = (BOOTSTRAP.parent,)
_HOST, _TESTER = "code_host", "code_tests"


class Verdict(StrEnum):
    """What came of running a program's tests."""

    PASSED = "passed"
    FAILED = "failed"
    """The program raised, hung, died or returned something else."""
    UNSUPPORTED = "unsupported"
    """What the program returned cannot be compared outside its process."""
    BROKEN = "broken"
    """The tests themselves do not work."""


class ProgramOutcome(NamedTuple):
    """A verdict, and in one line what was seen."""

    verdict: Verdict
    detail: str


class ProgramTests(NamedTuple):
    """The tests of a problem, in the layouts of HumanEval and MBPP."""

    tests: str
    """Python that raises where the program is wrong; `check(candidate)` is called where it is defined."""
    entry_point: str = ""
    """Name of the function that is asked for; empty where the tests call it by name."""
    setup: str = ""
    """Python that runs before the tests."""
    prelude: str = ""
    """The prompt, where it is Python: tests may use its imports and helpers."""


class ProgramRunner:
    """Runs programs against tests. Not for several threads at a time.

    Args:
        isolation: In which both processes run.
        seconds: Wall-clock and processor time of one program with its tests.
        memory_bytes: Address space of each of the two processes, beside what the interpreter takes.
    """

    def __init__(self, isolation: Isolation, *, seconds: float, memory_bytes: int) -> None:
        self._isolation = isolation
        self._seconds = seconds
        self._limits = {"memory_bytes": memory_bytes, "cpu_seconds": int(seconds) + 2}
        self._children: dict[str, Child] = {}
        self._finalizers: dict[str, weakref.finalize[..., Any]] = {}

    def run(self, program: str, tests: ProgramTests, *, seconds: float | None = None) -> ProgramOutcome:
        """Run a program against tests.

        Args:
            program: Python.
            tests: What it must meet.
            seconds: Another limit of wall-clock time for this run.

        Raises:
            VerifierError: A process cannot be started.
        """
        host = self._running(_HOST)
        host.send(json.dumps({"program": program}).encode())
        try:
            self._await_confinement(host)
            end = time.monotonic() + (self._seconds if seconds is None else seconds)
            outcome = self._load(host, end) or self._test(host, tests, end)
        except BaseException:
            self.close()  # its next line would be taken for a reply to another program's tests
            raise
        self._end_program(host)
        return outcome

    def close(self) -> None:
        """End both processes and what they started. Running again starts others."""
        for script in tuple(self._children):
            self._stop(script)

    def _running(self, script: str) -> Child:
        if script not in self._children:
            child = self._children[script] = Child(isolated_command(self._isolation, script, _OWN_CODE))
            # A runner that is dropped without being closed leaves no process behind.
            self._finalizers[script] = weakref.finalize(self, child.close)
            readable = confinement(self._isolation, _OWN_CODE)
            child.send(json.dumps({"readable": readable, "private_tmp": readable is None, **self._limits}).encode())
        return self._children[script]

    def _stop(self, script: str) -> None:
        if script in self._children:
            self._children.pop(script)
            self._finalizers.pop(script)()

    def _end_program(self, host: Child) -> None:
        """Have the program's process ended for certain; what comes before the word on it is that program's and is dropped."""
        nonce = secrets.token_hex(16)
        host.send(json.dumps({"end": nonce}).encode())
        try:
            while (line := host.receive(SPARE_SECONDS)) is not None:
                if line == json.dumps({"ended": nonce}).encode():
                    return
        except ChildEnded:
            pass
        self._stop(_HOST)

    def _ask(self, host: Child, end: float) -> bytes | ProgramOutcome:
        """Return the next line of the program's process, or how it failed to give one."""
        try:
            line: bytes | None = b""
            while line == b"":
                line = host.receive(max(0.0, end - time.monotonic()))
        except ChildEnded as error:
            return ProgramOutcome(Verdict.FAILED, f"the process of the program ended ({error.detail})")
        if line is None:
            return ProgramOutcome(Verdict.FAILED, "the program took too long")
        if line == b'{"gone": true}':
            return ProgramOutcome(
                Verdict.FAILED, "the program ended its process, or ran into the limit of memory or processor time"
            )
        return line

    def _await_confinement(self, host: Child) -> None:
        """Wait until the program's process is isolated, before anything of the program runs: a busy machine is not the program's fault."""
        if self._ask(host, time.monotonic() + START_SECONDS) != b'{"confined": true}':
            raise VerifierError(f"the isolation {self._isolation} cannot be set up: {host.stderr_tail()}")

    def _load(self, host: Child, end: float) -> ProgramOutcome | None:
        """Wait until the program is loaded; return how it failed, None where it did not."""
        line = self._ask(host, end)
        if isinstance(line, ProgramOutcome):
            return line
        reply = _decode(line)
        if reply.get("loaded") is True:
            return None
        return ProgramOutcome(
            Verdict.FAILED, f"loading the program raised {' '.join(map(str, _items(reply.get('raised'))))}"[:300]
        )

    def _test(self, host: Child, tests: ProgramTests, end: float) -> ProgramOutcome:
        nonce = secrets.token_hex(16)
        tester = self._running(_TESTER)
        calls_check = bool(tests.entry_point) and "def check(" in tests.tests
        tester.send(json.dumps({"nonce": nonce, **tests._asdict(), "calls_check": calls_check}).encode())
        while True:
            try:
                line = tester.receive(max(0.0, end - time.monotonic()) + SPARE_SECONDS)
            except ChildEnded as error:
                tail = tester.stderr_tail()
                self._stop(_TESTER)
                return ProgramOutcome(Verdict.BROKEN, f"the process of the tests ended ({error.detail}) {tail}"[:300])
            if line is None:
                self._stop(_TESTER)
                return ProgramOutcome(Verdict.FAILED, "the program with its tests took too long")
            message = _decode(line)
            if message.get("nonce") != nonce:
                self._stop(_TESTER)
                return ProgramOutcome(Verdict.BROKEN, "the process of the tests gave a reply that was not asked for")
            if "verdict" in message:
                return ProgramOutcome(Verdict(message["verdict"]), str(message["detail"]))
            host.send(json.dumps(message["call"]).encode())
            reply = self._ask(host, end)
            if isinstance(reply, ProgramOutcome):
                self._stop(_TESTER)
                return reply
            tester.send(reply)


def _decode(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else ["something that cannot be read"]
