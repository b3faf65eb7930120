"""Numbers, tables and figures: arrays and rows in, arrays and figures out. Knows no models and imports no torch.

    from posttrain import analysis

    analysis.plot("pass_at_k", ["runs/before", "runs/after"], out="pass_at_k.pdf")

`stats` estimates, `figures` draws, `tables` sets, and `plot` makes a figure of what run directories hold.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.analysis.plots.plotting import PlotResult, plot
    from posttrain.analysis.plots.registry import FIGURES

_HOME = {"FIGURES": "plots.registry", "PlotResult": "plots.plotting", "plot": "plots.plotting"}

__all__ = ["FIGURES", "PlotResult", "plot"]


def __getattr__(name: str) -> Any:
    """Import matplotlib only when something is drawn."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
