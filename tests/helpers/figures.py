"""The drawing function of every figure in the registry, and rows for the figures of probes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from matplotlib.axes import Axes

from posttrain.analysis.plots.registry import FIGURES

DRAW: dict[str, Callable[..., Axes]] = {
    name: getattr(import_module(f"posttrain.analysis.figures.{name}"), name) for name in FIGURES
}

_STEP = {"problem": "p", "path": "reference", "step": 1, "log_reach": -1.0, "log_local": -6.0, "binds": True}
_BASELINE = {
    "condition": "baseline", "n_problems": 9, "n": 36, "c": 18, "rate": 0.5, "low": 0.3, "high": 0.7, "gain": None, "gain_low": None, "gain_high": None,
}  # fmt: skip
_LADDER = {"fraction": 0.4, "condition": "reference", "n": 9, "c": 1, "rate": 0.1, "low": 0.0, "high": 0.3}
_LOST = {"id": "a", "p_before": 0.8, "p_after": 0.0, "change": -20.0, "lost": True}
_SIDE = {"panel": "success", "of": "all problems", "under": "student", "estimate": 0.3, "low": 0.2, "high": 0.4, "n_problems": 20}
_ROW = {"side": "completion", "nats_per_token": 0.1, "worst": 2.0, "inside": True, "limit": 5.0}
PROBE_ROWS: dict[str, list[dict[str, Any]]] = {
    "prefix_ladder": [_LADDER, {**_LADDER, "fraction": 0.0}, {**_LADDER, "condition": "wrong step"}],
    "availability": [_STEP, {**_STEP, "step": 2, "binds": False}],
    "scaffold": [_BASELINE, {**_BASELINE, "condition": "with a hint", "gain": 0.4, "gain_low": 0.2, "gain_high": 0.6}],
    "drift": [_LOST, {**_LOST, "p_after": 0.7, "lost": False}],
    "teacher": [_SIDE, {**_SIDE, "under": "teacher"}],
    "data": [_ROW, {**_ROW, "worst": 9.0, "inside": False}],
}
"""Probe → rows of its figure, as the probe finds them."""
