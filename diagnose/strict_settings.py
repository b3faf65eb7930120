"""Strict settings: the base of every pydantic model of what a user writes, and the one line that says what is wrong with it."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class StrictModel(BaseModel):
    """Settings that refuse keys they do not know, numbers that are not finite, and true or false in place of a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name is not None:
            allowed = _types_in(cls.model_fields[info.field_name].annotation)
            if allowed & {int, float} and not allowed & {bool, Any}:
                raise PydanticCustomError("truth_value", "a number is needed, not true or false")
        return value


def closest(word: str, allowed: Iterable[str]) -> str:
    """Say which allowed word was probably meant.

    Returns:
        ` (did you mean 'template'?)`, or the empty string when nothing is near.
    """
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def shorten(value: object, limit: int = 60) -> str:
    """Write a value for an error message: on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def unknown(what: str, got: str, allowed: Iterable[str]) -> str:
    """Say that a word is unknown, which are allowed and which was probably meant."""
    words = sorted(allowed)
    return f"unknown {what} {got!r}; allowed: {', '.join(words)}{closest(got, words)}"


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn a validation error into one line: where, what was got, what is allowed.

    Args:
        error: What pydantic raised.
        model: The model that was validated; unknown keys are answered with the keys of the part they stand in.
    """
    errors = error.errors(include_url=False)
    # An unknown key is usually a misspelt one, and then the reason for the other errors.
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    location = tuple(first["loc"])
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        parent = ".".join(str(part) for part in location[:-1])
        line = unknown("key", str(location[-1]), _keys_at(model, location[:-1]))
        line = f"{parent}: {line}" if parent else line
    elif first["type"] == "missing":
        line = f"{dotted} is missing"
    elif first["type"] == "value_error":
        message = str(first.get("ctx", {}).get("error", first["msg"]))
        line = f"{dotted}: {message}" if dotted else message
    else:
        line = f"{dotted}: got {shorten(first['input'])}; {first['msg'][0].lower()}{first['msg'][1:]}"
    more = len(errors) - 1
    return line + (f" (and {more} more)" if more else "")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the part of `model` at `location` knows."""
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            inner = _model_in(model.model_fields[part].annotation)
            if inner is None:
                break
            model = inner
    return list(model.model_fields)


def _types_in(annotation: Any) -> set[Any]:
    """Return the types that an annotation such as `float | None` allows."""
    return set(typing.get_args(annotation)) or {annotation}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model named in an annotation such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
