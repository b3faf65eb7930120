"""Errors, told apart by who has to act.

Every error of this project is a `PosttrainError`, and also the built-in error that it refines. A `UserError` means that what the user
gave is wrong: its message is one line that says what was got, what is allowed and what to use instead, its `code` says the same to a
program, and the command line ends with exit code 2. The others mean that the software failed on input that looked right.
"""

from __future__ import annotations

from typing import ClassVar


class PosttrainError(Exception):
    """The root of every error raised on purpose."""


class UserError(PosttrainError, ValueError):
    """What the user gave is wrong (exit code 2)."""

    default_code: ClassVar[str] = "user"
    """Code of the errors of this class that are raised without one."""

    def __init__(self, message: object = "", *, code: str | None = None):
        """Raise with a message for people and a code for programs.

        Args:
            message: One line: what was got, what is allowed, what to use instead.
            code: Names the mistake in snake_case, for example `unknown_probe`; `default_code` where None.
        """
        super().__init__(message)
        self.code = code or self.default_code


class BehaviorError(UserError):
    """A behavior file, its rows or its splits cannot be used."""

    default_code = "behavior"


class ModelError(UserError):
    """A model cannot be found or loaded."""

    default_code = "model"


class RunError(UserError):
    """A run directory cannot be used for what was asked."""

    default_code = "run"


class SourceError(UserError):
    """Files of another tool cannot be read, or do not tell what is asked of them."""

    default_code = "source"


class SettingsError(UserError):
    """A setting is unknown, out of range or contradicts another."""

    default_code = "settings"


class VerifierError(PosttrainError, RuntimeError):
    """The child process that reads model text could not be started, or its answer could not be read."""


class NonFiniteError(PosttrainError, FloatingPointError):
    """A loss, a gradient or a weight was NaN or infinite; the message says what is kept."""


class StoppedBySignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP stopped the program, which saves what Ctrl-C would save.

    Args:
        signal_number: Of the signal; the exit code is 128 more.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
