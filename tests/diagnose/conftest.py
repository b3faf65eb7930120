"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from posttrain.diagnose.sampling import shards


@pytest.fixture
def killed_after() -> Callable[[int], AbstractContextManager[None]]:
    """Ctrl-C after so many shards were drawn."""

    @contextmanager
    def killed(num_shards: int) -> Iterator[None]:
        drawn, left = shards._graded, [num_shards]

        def dies(*args: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return drawn(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "_graded", dies)
            with pytest.raises(KeyboardInterrupt):
                yield

    return killed
