"""Where problems come from: behavior files, JSONL files, reasoning-gym, and the behaviors that come with the package."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.diagnose.behaviors.behavior_files import load_behavior, load_behaviors
    from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
    from posttrain.diagnose.behaviors.bundled_files import bundled_behaviors, describe_bundled

_HOME = {
    "BehaviorOptions": "behavior_options",
    "bundled_behaviors": "bundled_files",
    "describe_bundled": "bundled_files",
    "load_behavior": "behavior_files",
    "load_behaviors": "behavior_files",
}

__all__ = ["BehaviorOptions", "bundled_behaviors", "describe_bundled", "load_behavior", "load_behaviors"]


def __getattr__(name: str) -> Any:
    """Look a public name up where it lives: listing the bundled behaviors needs no verifier and no problem generator."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
