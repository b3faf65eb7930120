"""Rows in which one value after another is replaced by one that its tool does not write."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

ODD_VALUES: tuple[Any, ...] = (None, "x", 7, [], [None], {"a": 1}, float("nan"), float("inf"), 10**400)
"""Of every kind that JSON has, and numbers that no column holds."""
Place = tuple[str | int, ...]


def odd_rows(row: Mapping[str, Any], depth: int) -> Iterator[tuple[Place, Any, dict[str, Any]]]:
    """Yield copies of a row with one odd value each: its place, the value, the copy.

    Args:
        row: As its tool writes it.
        depth: How many keys deep values are replaced; of a list the first element is.
    """
    for place in _places(row, depth):
        for value in ODD_VALUES:
            changed = copy.deepcopy(dict(row))
            inner: Any = changed
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            yield place, value, changed


def _places(value: Any, depth: int) -> Iterator[Place]:
    inner = value.items() if isinstance(value, Mapping) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, one in inner:
        yield (key,)
        if depth > 1:
            yield from ((key, *rest) for rest in _places(one, depth - 1))
