"""What can go wrong, told apart by whose turn it is to act.

Every error of this project is a `PosttrainError`, and also the built-in error that it refines. A `UserError` means that what the user
gave is wrong: its message is one line that says what was got, what is allowed and what to use instead, and the command line ends
with exit code 2. The others mean that a part of the machinery failed on input that looked right.
"""


class PosttrainError(Exception):
    """The root of every error raised on purpose."""


class UserError(PosttrainError, ValueError):
    """What the user gave is wrong (exit code 2)."""


class BehaviorError(UserError):
    """A behavior file, its rows or its splits cannot be used."""


class ModelError(UserError):
    """A model cannot be found or loaded."""


class RunError(UserError):
    """A run directory cannot be used for what was asked."""


class SettingsError(UserError):
    """A setting is unknown, out of range or contradicts another."""


class VerifierError(PosttrainError, RuntimeError):
    """The child process that reads model text could not be started or spoke nonsense."""


class NonFiniteError(PosttrainError, FloatingPointError):
    """A loss or gradient was NaN or infinite; the weights were left as they were."""
