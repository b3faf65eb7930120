"""Pause Python's collector of reference cycles where many objects are made that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector; a context manager, and a decorator of functions.

    With 10^5 problems it takes a fifth of the time of an import, in which it finds nothing: it goes through all objects again and again, and these refer to
    one another in no circle.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():  # what was made is taken for old: else the collector would go through all of it at once
                gc.freeze()
                gc.unfreeze()
            gc.enable()
