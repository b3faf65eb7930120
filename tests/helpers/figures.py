"""The drawing function of every figure in the registry."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from matplotlib.axes import Axes

from posttrain.analysis.plots.registry import FIGURES

DRAW: dict[str, Callable[..., Axes]] = {
    name: getattr(import_module(f"posttrain.analysis.figures.{name}"), name) for name in FIGURES
}
