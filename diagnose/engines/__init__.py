"""Engines, which sample and score. To add one, write a module with a class that meets `base.Engine` and name it in `ENGINES`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.models import model_source
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Behavior


def _open_transformers(address: str, model: str, behaviors: Sequence[Behavior]) -> Engine:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    return TransformersEngine.open(model)


def _open_vllm(address: str, model: str, behaviors: Sequence[Behavior]) -> Engine:
    from posttrain.diagnose.engines.vllm.vllm_engine import VllmEngine

    return VllmEngine.open(model)


def _open_openai(address: str, model: str, behaviors: Sequence[Behavior]) -> Engine:
    from posttrain.diagnose.engines.openai.openai_engine import OpenAIEngine

    return OpenAIEngine.open(address, model, timeout=server_seconds())


def server_seconds() -> float:
    """Return how long a server may take for one request: POSTTRAIN_SERVER_SECONDS, else 600.

    Raises:
        SettingsError: It is no number above 0.
    """
    given = os.environ.get("POSTTRAIN_SERVER_SECONDS", "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise SettingsError(
            f"POSTTRAIN_SERVER_SECONDS: got {given!r}, seconds above 0 are needed, such as 600", code="server_seconds"
        )
    return seconds


def _open_scripted(address: str, model: str, behaviors: Sequence[Behavior]) -> Engine:
    from posttrain.diagnose.engines.scripted import ScriptedEngine

    return ScriptedEngine.open(model, behaviors)


ENGINES: dict[str, Callable[[str, str, Sequence[Behavior]], Engine]] = {
    "transformers": _open_transformers,
    "vllm": _open_vllm,
    "openai": _open_openai,
    "scripted": _open_scripted,
}
"""How each engine is opened: (address, MODEL, behaviors) → engine. Only `openai` has an address."""


def parse_engine(name: str) -> tuple[str, str]:
    """Split the name of an engine into kind and address; `openai` has one, as in `openai:http://localhost:8000/v1`.

    Raises:
        SettingsError: There is no such engine.
    """
    kind, colon, address = name.partition(":")
    if kind not in ENGINES:
        close = get_close_matches(kind, ENGINES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        allowed = ", ".join("openai:URL" if one == "openai" else one for one in ENGINES)
        raise SettingsError(f"engine: got {name!r}, allowed are {allowed}{hint}", code="unknown_engine")
    if bool(colon) != (kind == "openai"):
        instead = "openai:URL, such as openai:http://localhost:8000/v1" if kind == "openai" else f"{kind} without a colon"
        raise SettingsError(f"engine: got {name!r}, allowed is {instead}", code="engine_address")
    return kind, address


MOST_WORKERS = 4096
"""Engines that one run may open."""


def check_workers(workers: int) -> None:
    """Refuse a number of engines that cannot be meant.

    Raises:
        SettingsError: It is below 1 or above `MOST_WORKERS`.
    """
    if workers < 1:
        raise SettingsError(f"--workers: got {workers}, at least 1 is needed", code="too_few_workers")
    if workers > MOST_WORKERS:
        raise SettingsError(f"--workers: got {workers}, at most {MOST_WORKERS} can be opened", code="too_many_workers")


def check_model(name: str, model: str) -> None:
    """Refuse a MODEL that the engine of that name cannot find, before anything heavy is imported; see `parse_engine`.

    Raises:
        SettingsError: There is no such engine.
        ModelError: The MODEL cannot be found. What a server has is found out when it is opened.
    """
    kind, _ = parse_engine(name)
    if kind in ("transformers", "vllm"):
        model_source.check_model(model)


def open_engine(name: str, model: str, behaviors: Sequence[Behavior]) -> Engine:
    """Open a MODEL with the engine of that name; see `parse_engine`.

    Raises:
        SettingsError: There is no such engine, or it cannot run here.
        ModelError: The model cannot be found or loaded.
    """
    kind, address = parse_engine(name)
    check_model(name, model)
    return ENGINES[kind](address, model, behaviors)
