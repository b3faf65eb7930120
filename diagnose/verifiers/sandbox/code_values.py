"""Values that pass between a program and its tests, as JSON: exact builtin types alone, so that nothing of a class comes along.

A value of any other type stays where it is and is named by a number. Either side raises `Unsendable` for what it cannot name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

_DEPTH = 60
_NUM_VALUES = 200_000
_SMALL = 1 << 53
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
}


class Unsendable(Exception):
    """A value cannot be sent; the message says why."""


def encode(value: Any, name_object: Callable[[Any], dict[str, Any]]) -> Any:
    """Return a value as JSON.

    Subclasses of builtin types are sent as those; iterators and generators as what they yield.

    Args:
        value: What to send.
        name_object: Returns the JSON of a value that stays here.

    Raises:
        Unsendable: It is too large or too deep, or `name_object` refuses it.
    """
    count = 0

    def walk(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > _NUM_VALUES or depth > _DEPTH:
            raise Unsendable(f"a value of more than {_NUM_VALUES} parts or {_DEPTH} levels")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int):
            whole = int.__int__(value)
            return whole if abs(whole) < _SMALL else {"int": hex(whole)}
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else {"float": str(number)}
        if isinstance(value, complex):
            return {"complex": [walk(value.real, depth + 1), walk(value.imag, depth + 1)]}
        if isinstance(value, bytes | bytearray):
            return {"bytes": bytes(value).hex()}
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                return {kind.__name__: [walk(one, depth + 1) for one in value]}
        if isinstance(value, dict):
            return {"dict": [[walk(key, depth + 1), walk(one, depth + 1)] for key, one in dict.items(value)]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, Iterator):
            return {"iterator": [walk(one, depth + 1) for one in value]}
        return {"object": name_object(value)}

    return walk(value, 0)


def decode(value: Any, find_object: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the value that JSON stands for, made of builtin types and of what `find_object` returns.

    Raises:
        ValueError: It is no encoded value.
    """
    if value is None or isinstance(value, bool | str | int | float):
        return value
    if not (isinstance(value, dict) and len(value) == 1):
        raise ValueError("not an encoded value")
    (kind, content), *_ = value.items()
    try:
        match kind:
            case "int":
                return int(content, 16)
            case "float":
                return float(content)
            case "complex":
                return complex(decode(content[0], find_object), decode(content[1], find_object))
            case "bytes":
                return bytes.fromhex(content)
            case "list" | "tuple" | "set" | "frozenset" | "iterator":
                items = [decode(one, find_object) for one in content]
                return _COLLECTIONS[kind](items)
            case "dict":
                return {decode(key, find_object): decode(one, find_object) for key, one in content}
            case "range":
                return range(*content)
            case "object":
                return find_object(content)
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError(f"not an encoded value: {error}") from None
    raise ValueError("not an encoded value")
