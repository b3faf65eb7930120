"""What a user gave is refused: by class and code, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from posttrain.diagnose.errors import UserError


@contextmanager
def refused(kind: type[UserError], code: str) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a `UserError` of a class with a code, whose message is one line."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def assert_refuses(function: Callable[..., object], accepted: Mapping[str, Any], **wrong: Any) -> None:
    """Expect a call to pass, and to raise a ValueError once some of its arguments are wrong: so these are the reason."""
    function(**accepted)
    with pytest.raises(ValueError):
        function(**{**accepted, **wrong})
