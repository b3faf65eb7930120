"""The child that reads texts, seen from the parent: started with the first text, and replaced when one makes it hang or crash."""

from __future__ import annotations

import json
import secrets
import sys
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.diagnose.errors import SettingsError, VerifierError
from posttrain.diagnose.types import Grade, GradeStatus
from posttrain.diagnose.verifiers.sandbox import child_process
from posttrain.diagnose.verifiers.sandbox.child_process import SPARE_SECONDS, START_SECONDS, Child, ChildEnded
from posttrain.diagnose.verifiers.sandbox.isolation import BOOTSTRAP, Isolation, confinement, isolated_command

_OWN_CODE = (BOOTSTRAP.parents[2],)


class Reading(NamedTuple):
    """What the child read in a text."""

    strict: str | None
    lenient: str | None


class TextReader:
    """Lets a verifier's `extract` read texts in a child. Not for several threads at a time.

    Args:
        kind: The verifier.
        options: Its options.
        deadline: Seconds that one text may take.
        isolation: In which isolation each text is read in a process of its own; None reads all in one that is not isolated.
        folders: Folders from which the child imports, beside installed packages.
        variables: Environment variables that the child keeps.
        start_seconds: That starting it may take.
    """

    def __init__(
        self,
        kind: str,
        options: Mapping[str, Any],
        *,
        deadline: float,
        isolation: Isolation | None = None,
        folders: Sequence[str] = (),
        variables: Sequence[str] = (),
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._start_seconds = start_seconds
        self._kind, self._options, self._deadline = kind, dict(options), deadline
        self._isolation, self._folders, self._variables = isolation, list(folders), tuple(variables)
        self._child: Child | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    def read(self, texts: Sequence[str], payload: Any) -> list[Reading | Grade]:
        """Read texts of one problem; errors and what is returned as for `read_each`."""
        return list(self.read_each([(text, payload) for text in texts]))

    def read_each(self, requests: Sequence[tuple[str, Any]]) -> Generator[Reading | Grade]:
        """Read texts, each with the payload of its problem, and yield what stands in each, or the grade of one that the child did not survive.

        The child reads ahead while what it read is looked at. It is ended where not all results are taken.

        Raises:
            VerifierError: The child cannot be started.
            SettingsError: The verifier cannot be prepared.
        """
        try:
            yield from self._read(requests)
        except BaseException:
            # Replies to an interrupted call must not be taken for those to the next one.
            self.close()
            raise

    def start(self) -> None:
        """Start the child, so that what is missing is known before there is a text.

        Raises:
            VerifierError: The child cannot be started.
            SettingsError: The verifier cannot be prepared.
        """
        try:
            self._running()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the child. Reading again starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._child, self._finalizer = None, None

    def _read(self, requests: Sequence[tuple[str, Any]]) -> Iterator[Reading | Grade]:
        # Names that a text cannot guess: no reply to one request passes for one to another.
        names = [secrets.token_hex(8) for _ in requests]
        sent: Child | None = None
        for place, name in enumerate(names):
            child = self._running()
            if child is not sent:
                # All at once: the child reads ahead, so no time goes into waiting for each other.
                for later, (text, payload) in zip(names[place:], requests[place:], strict=True):
                    child.send(json.dumps({"id": later, "text": text, "payload": payload}).encode())
                sent = child
            yield self._receive(child, name)

    def _receive(self, child: Child, name: str) -> Reading | Grade:
        """Wait for one result; the clock of a text starts when the one before it is answered."""
        late = missing(GradeStatus.TIMEOUT, f"reading took more than {self._deadline:g} s")
        try:
            line = child.receive(self._deadline + (SPARE_SECONDS if self._isolation else 0.0))
        except ChildEnded as error:
            self.close()
            return missing(GradeStatus.TIMEOUT if error.signal_name == "SIGXCPU" else GradeStatus.ERROR, error.detail)
        if line is None:
            self.close()
            return late
        reply = _decode(line)
        if reply is None or reply.get("id") != name:
            self.close()
            return missing(GradeStatus.ERROR, "the verifier process gave a reply that was not asked for")
        if reply.get("late"):
            return late
        if "error" in reply:
            return missing(GradeStatus.ERROR, str(reply["error"])[:500])
        if not all(name in reply and (reply[name] is None or isinstance(reply[name], str)) for name in Reading._fields):
            return missing(GradeStatus.ERROR, "the verifier process gave a reply that cannot be read")
        return Reading(reply["strict"], reply["lenient"])

    def _running(self) -> Child:
        if self._child is None:
            child = Child(self._command(), self._variables)
            self._child = child
            # A reader that is dropped without being closed leaves no process behind.
            self._finalizer = weakref.finalize(self, child.close)
            self._greet(child)
        return self._child

    def _command(self) -> list[str]:
        if self._isolation is not None:
            return isolated_command(self._isolation, "child", _OWN_CODE, self._folders)
        # -P keeps the folders of the script and of the user off the path: neither's regex.py or json.py is ever imported.
        return [sys.executable, "-P", str(child_process.CHILD_SCRIPT), "child", *self._folders]

    def _greet(self, child: Child) -> None:
        hello = {
            "kind": self._kind,
            "options": self._options,
            "deadline": self._deadline,
            "isolated": self._isolation is not None,
            "readable": None if self._isolation is None else confinement(self._isolation, _OWN_CODE, self._folders),
        }
        child.send(json.dumps(hello).encode())
        start = time.monotonic()
        try:
            line = child.receive(self._start_seconds)
            failure = f"it said nothing for {time.monotonic() - start:.0f} s" if line is None else ""
        except ChildEnded as error:
            line, failure = None, error.detail
        reply = None if line is None else _decode(line)
        if reply == {"ready": True}:
            return
        tail = child.stderr_tail()
        self.close()
        if reply is not None and "failed" in reply:
            raise SettingsError(f"verifier {self._kind}: {' '.join(str(reply['failed']).split())}", code="verifier_not_ready")
        raise VerifierError(f"the verifier process cannot be started: {failure or 'its first line could not be read'}; {tail}")


def missing(status: GradeStatus, detail: str) -> Grade:
    """Return the grade of a text of which nothing can be said."""
    return Grade(status=status, score=None, lenient_score=None, detail=detail)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return reply if isinstance(reply, dict) else None
