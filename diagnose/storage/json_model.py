"""The base of the typed models of the JSON files that others read: NaN is written as null, unknown fields are ignored, schemas are generated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, WithJsonSchema
from pydantic_core import from_json

from posttrain.analysis.stored_json import AGAIN
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import read_json, write_content


def _nan_for_null(value: Any) -> Any:
    return math.nan if value is None else value


def _storable(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


Number = Annotated[
    float,
    BeforeValidator(_nan_for_null),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
"""A number; NaN in Python and null in the file where it is undefined."""

Text = Annotated[str, BeforeValidator(_storable)]
"""Text that a model wrote; halves of surrogate pairs, which no file can hold, become question marks."""


class FileModel(BaseModel):
    """One object of a file. Fields that it does not know are ignored, and it can be built from an object with attributes of the same names."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        from_attributes=True,
        populate_by_name=True,
        use_attribute_docstrings=True,
        defer_build=True,
    )

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds, keys in the order of the fields."""
        content: dict[str, Any] = from_json(self.model_dump_json(by_alias=True))
        return content


File = TypeVar("File", bound=FileModel)


def write_model(path: Path, model: FileModel) -> None:
    """Write a file that appears whole or not at all."""
    write_content(path, model.to_json())


def read_model(path: Path, kind: type[File]) -> File:
    """Read a file.

    Raises:
        RunError: It cannot be read, has changed since it was written, or is of another version.
    """
    data = read_json(path)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise RunError(f"{path}: cannot be read ({_place(error)}); {AGAIN}", code="unreadable_file") from error


def _place(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
