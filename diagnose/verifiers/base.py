"""What every verifier can do. Reading a text and comparing with the answer are separate steps, so that they run in separate processes.

Verifiers that call a model neither parse nor execute a text, so they run here whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from posttrain.diagnose.types import Grade, Problem, PromptFormat


class CannotGrade(Exception):
    """A text cannot be graded: its grade is missing, not wrong. The message says why, in one line."""


class BaseVerifier:
    """What all verifiers have in common."""

    success: ClassVar[float] = 1.0
    """The score that counts as a success unless the behavior says otherwise."""

    answers_are_short: ClassVar[bool] = True
    """Whether another answer, or a list of several, is wrong, which the self-test tries; a program may be written in many ways, and several programs
    in one text are a program."""

    accepts_answer_alone: ClassVar[bool] = True
    """Whether the answer of a problem, as `write` gives it, is right; not where a form is demanded that only the verifier knows."""
    needs_answer: ClassVar[bool] = True
    """Whether every problem must have an answer to compare with."""
    reads_numbers: ClassVar[bool] = False
    """Whether a stated expression, which it leaves unread, is given to `math` for the lenient reading."""
    is_slow: ClassVar[bool] = False
    """Whether a text takes tens of milliseconds, so that the self-test tries wrong answers with a few problems only."""
    judges_content: ClassVar[bool] = True
    """Whether a text that answers no question must fail, which the self-test tries."""

    def executes_text(self, problems: Sequence[Problem]) -> bool:
        """Return whether what a model wrote might be executed, so that it must be isolated."""
        return False

    def remark(self, extracted: str, problem: Problem) -> str:
        """Say in one line why what was compared last is not right, where more is known than that; else nothing."""
        return ""

    def complaint(self, problem: Problem) -> str | None:
        """Say why a problem's answer cannot be compared with anything; None when it can."""
        return None

    def write(self, answer: str) -> str:
        """Return the shortest text that states an answer; the self-test feeds it back."""
        return answer

    def identity(self) -> str:
        """Return what makes its numbers and does not stand in its options; becomes a part of the behavior's fingerprint."""
        return ""

    def check_ready(self) -> None:
        """Refuse to begin where something that is needed to grade is missing: a package, a server.

        Raises:
            UserError: It is missing.
        """

    def close(self) -> None:
        """Let go what is held. Reading or rating again brings it back."""


class Verifier(BaseVerifier, ABC):
    """Reads an answer out of a text, and compares it with a problem's.

    `prepare` and `extract` run in the child process; `extract` parses what a model wrote and sees no answer. The other methods run in the
    parent.
    """

    memory_bytes: ClassVar[int] = 1 << 30
    """Address space of the child, beside what it takes to start."""
    start_seconds: ClassVar[float] = 60.0
    """That starting the child may take, `prepare` included."""
    variables: ClassVar[tuple[str, ...]] = ()
    """Environment variables that the child keeps, beside what python needs."""

    def folders(self) -> tuple[str, ...]:
        """Return the folders from which the child has to import, beside installed packages."""
        return ()

    def prepare(self) -> None:
        """Import what is slow to import, before the first text (child process)."""

    @abstractmethod
    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the answer out of a text (child process).

        Args:
            text: What the model wrote.
            lenient: Whether to read more forgivingly; the difference to the strict reading points at format, not ability.
            payload: What `payload()` gave for the problem.

        Returns:
            The answer in a canonical form, or None where the text states none, or several.
        """

    @abstractmethod
    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Score what was read, in [0, 1] (parent process).

        Raises:
            CannotGrade: It cannot be scored.
        """

    def shown(self, extracted: str) -> str | None:
        """Return what was read as it is stored and counted: what `extract` returned, unless that holds more, or no answer."""
        return extracted

    def payload(self, problem: Problem) -> Mapping[str, Any] | None:
        """Return what the child must know of the problem; None for every kind but those that document what they need, and why."""
        return None


class ModelVerifier(BaseVerifier, ABC):
    """Scores answers with a model. A text is only data to it, so all of it runs in the parent process."""

    success = 0.5

    @abstractmethod
    def rate(self, problem: Problem, texts: Sequence[str], prompt_format: PromptFormat) -> list[Grade]:
        """Return one grade per text, in order; what the model fails to say is missing, never wrong."""
