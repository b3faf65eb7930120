"""What every verifier can do. Reading a text and comparing with the answer are apart, so that each runs where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from posttrain.diagnose.types import Problem


class Verifier(Protocol):
    """Reads an answer out of a text, and compares it with a problem's.

    `extract` parses what a model wrote, so it runs in the child process and sees no answer. The other methods run in the parent.
    """

    def extract(self, text: str, *, lenient: bool, payload: Mapping[str, Any] | None = None) -> str | None:
        """Read the answer out of a text (child process).

        Args:
            text: What the model wrote.
            lenient: Whether to read more forgivingly; the difference to the strict reading points at format, not ability.
            payload: What `payload()` gave for the problem.

        Returns:
            The answer in a canonical form, or None where the text states none, or several.
        """
        ...

    def compare(self, extracted: str, problem: Problem, *, lenient: bool = False) -> float:
        """Score what was read, in [0, 1] (parent process)."""
        ...

    def complaint(self, problem: Problem) -> str | None:
        """Say why a problem's answer cannot be compared with anything; None when it can."""
        ...

    def payload(self, problem: Problem) -> Mapping[str, Any] | None:
        """What the child must know of the problem; None for every kind but the documented exception, `reasoning_gym`."""
        ...

    def write(self, answer: str) -> str:
        """The shortest text that states an answer; the self-test feeds it back."""
        ...
