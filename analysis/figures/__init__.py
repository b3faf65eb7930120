"""Figures: each module draws one, in the function of its name, from computed numbers with their intervals and an optional `ax`.

The rows they take have the keys of `diagnosis.json` and `compare.json`. One style for all of them; `plots.registry` lists them.
"""

from __future__ import annotations

from posttrain.analysis.figures.saving import draw_figure, figure_csv, save_figure

__all__ = ["draw_figure", "figure_csv", "save_figure"]
