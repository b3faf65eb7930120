"""Figures: each takes computed numbers with their intervals and an optional `ax`, and returns the axes.

The rows they take have the keys of `diagnosis.json` and `compare.json`. One figure per file, one style for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from posttrain.analysis.figures.before_after import before_after as _before_after
from posttrain.analysis.figures.checks import checks as _checks
from posttrain.analysis.figures.pass_at_k import pass_at_k as _pass_at_k
from posttrain.analysis.figures.reference_likelihood import reference_likelihood as _reference_likelihood
from posttrain.analysis.figures.saving import draw_figure, figure_csv, save_figure
from posttrain.analysis.figures.step_likelihood import step_likelihood as _step_likelihood
from posttrain.analysis.figures.success_histogram import success_histogram as _success_histogram

FIGURES: dict[str, Callable[..., Axes]] = {
    "pass_at_k": _pass_at_k,
    "success_histogram": _success_histogram,
    "reference_likelihood": _reference_likelihood,
    "step_likelihood": _step_likelihood,
    "before_after": _before_after,
    "checks": _checks,
}
"""All figures by name; each function stands in the module of its name."""

__all__ = ["FIGURES", "draw_figure", "figure_csv", "save_figure"]
