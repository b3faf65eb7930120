"""How a user's YAML file and `key=value` overrides become the config of a recipe."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.yaml_text import YamlTextError, parse_yaml
from posttrain.trainers.config import TrainingConfig
from posttrain.trainers.recipes.registry import find_recipe


def load_config(recipe: str, file: Path | None = None, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read a YAML mapping and `key=value` overrides, which win, into the config of a recipe.

    Raises:
        SettingsError: No such recipe, the file is no mapping, an override has no `=`, a key is unknown or a value does not fit; one line.
    """
    kind: type[TrainingConfig] = find_recipe(recipe).config
    values: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = parse_yaml(_text_of(file))
        except (OSError, UnicodeDecodeError, YamlTextError) as error:
            raise SettingsError(
                f"{file} cannot be read as YAML: {' '.join(str(error).split())}", code="config_unreadable"
            ) from error
        if loaded is not None and not isinstance(loaded, dict):
            raise SettingsError(
                f"{file} holds a {type(loaded).__name__}; a config is a mapping like `learning_rate: 1e-5`",
                code="config_not_a_mapping",
            )
        values.update(loaded or {})
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise SettingsError(
                f"override {override!r} has no `=`; write it like learning_rate=1e-5", code="override_without_value"
            )
        try:
            values[key.strip()] = parse_yaml(text)
        except YamlTextError as error:
            raise SettingsError(
                f"override {override!r} has no YAML value after the `=`", code="override_without_value"
            ) from error
    allowed = sorted(kind.model_fields)
    for key in values:
        if key not in kind.model_fields:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"unknown setting {key!r}{hint} Allowed: {', '.join(allowed)}", code="unknown_setting")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        meaning = " ".join((kind.model_fields[str(first["loc"][0])].description or "").split())
        raise SettingsError(
            f"{where}={first['input']!r}: {first['msg']}. {meaning}",
            code="setting_out_of_range",
        ) from error


def _text_of(file: Path) -> str:
    """Return the text of a file; a pipe, whose reader would wait, or a folder is none."""
    if file.exists() and not file.is_file():
        raise OSError("it is no file")
    return file.read_text(encoding="utf-8")
