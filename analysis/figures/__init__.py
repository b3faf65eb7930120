"""Figures: each takes computed numbers with their intervals and an optional `ax`, and returns the axes.

The rows they take have the keys of `diagnosis.json` and `compare.json`. One figure per file, one style for all of them.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes

from posttrain.analysis.figures.availability import availability as _availability
from posttrain.analysis.figures.before_after import before_after as _before_after
from posttrain.analysis.figures.checks import checks as _checks
from posttrain.analysis.figures.cover_at_tau import cover_at_tau as _cover_at_tau
from posttrain.analysis.figures.data_reach import data_reach as _data_reach
from posttrain.analysis.figures.drift import drift as _drift
from posttrain.analysis.figures.pass_at_k import pass_at_k as _pass_at_k
from posttrain.analysis.figures.prefix_ladder import prefix_ladder as _prefix_ladder
from posttrain.analysis.figures.reference_likelihood import reference_likelihood as _reference_likelihood
from posttrain.analysis.figures.retention import retention as _retention
from posttrain.analysis.figures.saving import draw_figure, figure_csv, save_figure
from posttrain.analysis.figures.scaffold import scaffold as _scaffold
from posttrain.analysis.figures.step_likelihood import step_likelihood as _step_likelihood
from posttrain.analysis.figures.success_histogram import success_histogram as _success_histogram
from posttrain.analysis.figures.support_dynamics import support_dynamics as _support_dynamics
from posttrain.analysis.figures.support_transitions import support_transitions as _support_transitions
from posttrain.analysis.figures.teacher import teacher as _teacher

FIGURES: dict[str, Callable[..., Axes]] = {
    "pass_at_k": _pass_at_k,
    "cover_at_tau": _cover_at_tau,
    "success_histogram": _success_histogram,
    "reference_likelihood": _reference_likelihood,
    "step_likelihood": _step_likelihood,
    "checks": _checks,
    "before_after": _before_after,
    "support_transitions": _support_transitions,
    "support_dynamics": _support_dynamics,
    "retention": _retention,
    "prefix_ladder": _prefix_ladder,
    "availability": _availability,
    "scaffold": _scaffold,
    "drift": _drift,
    "teacher": _teacher,
    "data_reach": _data_reach,
}
"""All figures by name; each function stands in the module of its name."""

__all__ = ["FIGURES", "draw_figure", "figure_csv", "save_figure"]
