"""The fields of a dataclass by name, for what hashes or stores many of them."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def fields_of(instance: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a dataclass by name, with their values as they are."""
    return {name: getattr(instance, name) for name in _names(type(instance))}


@cache
def _names(kind: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))
