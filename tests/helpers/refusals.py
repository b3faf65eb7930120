"""What a user gave is refused: by class and code, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from posttrain.diagnose.errors import UserError


@contextmanager
def refused(kind: type[UserError], code: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a `UserError` of a class with a code, whose message is one line."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
