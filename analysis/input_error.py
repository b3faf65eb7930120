"""What a figure or a table cannot be made from."""


class InputError(ValueError):
    """What was given is wrong: one line that says what was got, what is allowed and what to use instead."""
