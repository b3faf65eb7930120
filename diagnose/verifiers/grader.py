"""Grades texts. What parses them runs in a child process; what holds the expected answers, or calls a model, runs here."""

from __future__ import annotations

import json
import math
import threading
import time
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from posttrain.diagnose.errors import VerifierError
from posttrain.diagnose.types import Behavior, Grade, GradeStatus, Problem
from posttrain.diagnose.verifiers import ModelVerifier, Verifier, build_verifier
from posttrain.diagnose.verifiers.exact import normalise_text
from posttrain.diagnose.verifiers.sandbox.child_process import Child, ChildEnded

_START_SECONDS = 60.0
_ECHO = "the text repeats the question"
_BLANK = "the text is blank"


class Grader:
    """Grades the texts of one behavior.

    The child is started with the first text, killed and replaced when a text makes it hang or crash, and only that text is
    charged. May be used from several threads, which wait for one another.

    Args:
        behavior: Whose verifier to use.
        deadline: Seconds that one text may take.
    """

    def __init__(self, behavior: Behavior, *, deadline: float = 5.0) -> None:
        if not deadline > 0.0:
            raise ValueError(f"deadline: got {deadline}; allowed: seconds above 0")
        self._behavior = behavior
        self._deadline = deadline
        self._verifier = build_verifier(behavior.verifier)
        self._child: Child | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child. Grading again starts a new one."""
        with self._lock:
            self._stop()
            self._verifier.close()

    def grade(self, problem: Problem, texts: Sequence[str]) -> list[Grade]:
        """Grade texts that answer one problem.

        Args:
            problem: A problem of the behavior.
            texts: What the model wrote, without the prompt.

        Returns:
            One grade per text, in order.

        Raises:
            VerifierError: If the child cannot be started.
            UserError: If the model that is asked cannot be loaded or reached.
        """
        echoes = self._echoes(problem)
        verifier = self._verifier
        if isinstance(verifier, ModelVerifier):
            return self._ask(verifier, problem, texts, echoes)
        # Equal texts are read once: models repeat themselves, and a text that hangs would hang each time.
        distinct = list(dict.fromkeys(text for text in texts if normalise_text(text) not in echoes))
        with self._lock:
            try:
                replies = dict(zip(distinct, self._read(distinct, verifier.payload(problem)), strict=True))
            except BaseException:
                # Replies to an interrupted call must not be taken for those to the next one.
                self._stop()
                raise
        return [self._judge(verifier, problem, replies[text]) if text in replies else _nothing_said(_ECHO) for text in texts]

    def _ask(self, verifier: ModelVerifier, problem: Problem, texts: Sequence[str], echoes: set[str]) -> list[Grade]:
        """Let a model score texts, each different one once; blanks and echoes are not sent."""
        known = {
            text: _nothing_said(_ECHO if text.strip() else _BLANK)
            for text in texts
            if not text.strip() or normalise_text(text) in echoes
        }
        distinct = [text for text in dict.fromkeys(texts) if text not in known]
        if distinct:
            with self._lock:
                rated = map(_known_or_missing, verifier.rate(problem, distinct, self._behavior.prompt))
                known |= dict(zip(distinct, rated, strict=True))
        return [known[text] for text in texts]

    def _echoes(self, problem: Problem) -> set[str]:
        """Return the normalised texts that only repeat what was asked."""
        if not isinstance(problem.prompt, str):
            return {normalise_text(problem.prompt[-1].content)}
        question = problem.prompt
        return {normalise_text(question), normalise_text(self._behavior.prompt.template.replace("{question}", question))}

    def _judge(self, verifier: Verifier, problem: Problem, reply: dict[str, Any] | Grade) -> Grade:
        if isinstance(reply, Grade):
            return reply
        if "error" in reply:
            return _missing(GradeStatus.ERROR, reply["error"])
        strict, lenient = reply["strict"], reply["lenient"]
        lenient_score = 0.0 if lenient is None else verifier.compare(lenient, problem, lenient=True)
        if strict is None:
            return Grade(
                status=GradeStatus.UNPARSED, score=0.0, lenient_score=lenient_score, detail="no answer, or several, can be read"
            )
        score = verifier.compare(strict, problem)
        return _known_or_missing(
            Grade(status=GradeStatus.SCORED, score=score, extracted=strict, lenient_score=max(score, lenient_score))
        )

    def _read(self, texts: Sequence[str], payload: Any) -> list[dict[str, Any] | Grade]:
        """Let the child read texts: its replies, or the grade of a text that it did not survive."""
        replies: list[dict[str, Any] | Grade] = []
        sent: Child | None = None
        while len(replies) < len(texts):
            child = self._running()
            if child is not sent:
                # All at once: the child reads ahead while we judge nothing yet, so no time goes into waiting for each other.
                for index in range(len(replies), len(texts)):
                    child.send(json.dumps({"id": index, "text": texts[index], "payload": payload}).encode())
                sent = child
            try:
                # The clock of a text starts when the one before it is answered.
                line = child.receive(self._deadline)
            except ChildEnded as error:
                out_of_time = error.signal_name == "SIGXCPU"
                replies.append(_missing(GradeStatus.TIMEOUT if out_of_time else GradeStatus.ERROR, error.detail))
                self._stop()
                continue
            if line is None:
                replies.append(_missing(GradeStatus.TIMEOUT, f"reading took more than {self._deadline:g} s"))
                self._stop()
                continue
            reply = _decode(line)
            if reply is None or reply.get("id") != len(replies):
                replies.append(_missing(GradeStatus.ERROR, "the verifier process gave a reply that was not asked for"))
                self._stop()
                continue
            replies.append(reply)
        return replies

    def _running(self) -> Child:
        if self._child is None:
            child = Child()
            self._child = child
            # A grader that is dropped without being closed leaves no process behind.
            self._finalizer = weakref.finalize(self, child.close)
            self._greet(child)
        return self._child

    def _greet(self, child: Child) -> None:
        spec = self._behavior.verifier
        hello = {"kind": spec.kind, "options": dict(spec.options), "deadline": self._deadline}
        child.send(json.dumps(hello).encode())
        start = time.monotonic()
        try:
            line = child.receive(_START_SECONDS)
            failure = f"it said nothing for {time.monotonic() - start:.0f} s" if line is None else ""
        except ChildEnded as error:
            line, failure = None, error.detail
        if line is None or _decode(line) != {"ready": True}:
            tail = child.stderr_tail()
            self._stop()
            raise VerifierError(
                f"the verifier process cannot be started: {failure or 'its first line could not be read'}; {tail}"
            )

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._child, self._finalizer = None, None


def _nothing_said(detail: str) -> Grade:
    return Grade(status=GradeStatus.UNPARSED, score=0.0, lenient_score=0.0, detail=detail)


def _known_or_missing(grade: Grade) -> Grade:
    """Return the grade; one of status error where the score is no finite number, which is no failure of the text."""
    if grade.score is None or math.isfinite(grade.score):
        return grade
    return _missing(GradeStatus.ERROR, f"the verifier gave the score {grade.score}, which is no finite number")


def _missing(status: GradeStatus, detail: str) -> Grade:
    return Grade(status=status, score=None, lenient_score=None, detail=detail)


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None
