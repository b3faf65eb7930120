"""What a figure or a table cannot be made from."""


class InputError(ValueError):
    """What was given is wrong: one line that says what was got, what is allowed and what to use instead."""

    def __init__(self, message: str, *, code: str = "input"):
        """Raise with a message for people and a code for programs.

        Args:
            message: One line: what was got, what is allowed, what to use instead.
            code: Names the mistake in snake_case, for example `unknown_figure`.
        """
        super().__init__(message)
        self.code = code
