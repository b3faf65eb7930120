"""Why an environment cannot be used, with a code: what a child process tells its parent."""

from __future__ import annotations


class EnvironmentRefused(Exception):
    """An environment cannot be loaded or used.

    Args:
        message: One line: what was got, what is allowed and what to use instead.
        code: Names the reason in snake_case.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class RewardFailed(Exception):
    """A reward function raised on a text: its grade is missing. The message says which, and what it raised."""


RUN_THERE = "run its own evaluation (`vf-eval`) and read what it wrote with `posttrain import verifiers PATH --out RUN`"
"""What to do with an environment that cannot be a behavior."""
SAMPLE_THERE = (
    "measure it with `posttrain diagnose MODEL FILE --engine openai:URL --out RUN`, where its own loop asks a server, or "
    + RUN_THERE
)
"""What to do with one that a function `load_environment` makes."""
MULTI_TURN = "multi_turn_environment"
"""Code of the refusal of an environment of several turns or with tools."""


def one_line(error: BaseException, limit: int = 240) -> str:
    """Return an error's kind and message on one line, not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
