"""Engines: what samples and scores. To add one, write a module with a class that meets `base.Engine` and name it in `ENGINES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Behavior


def _open_transformers(model: str, behaviors: Sequence[Behavior]) -> Engine:
    from posttrain.diagnose.engines.transformers_engine import TransformersEngine

    return TransformersEngine.open(model)


def _open_scripted(model: str, behaviors: Sequence[Behavior]) -> Engine:
    from posttrain.diagnose.engines.scripted import ScriptedEngine

    return ScriptedEngine.open(model, behaviors)


ENGINES: dict[str, Callable[[str, Sequence[Behavior]], Engine]] = {
    "transformers": _open_transformers,
    "scripted": _open_scripted,
}


def open_engine(name: str, model: str, behaviors: Sequence[Behavior]) -> Engine:
    """Open a MODEL with the engine of that name.

    Raises:
        SettingsError: there is no such engine.
        ModelError: the model cannot be found or loaded.
    """
    if name not in ENGINES:
        close = get_close_matches(name, ENGINES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsError(f"engine: got {name!r}, allowed are {', '.join(ENGINES)}{hint}")
    return ENGINES[name](model, behaviors)
