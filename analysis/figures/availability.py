"""How likely each step of right paths is to be reached, against how likely it is to be taken once it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from posttrain.analysis.figures.palette import BLUE, GREEN, INK, MUTED, NOTE, PAPER, VERMILION
from posttrain.analysis.figures.style import Row, check_known, empty_note, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number, short_number

PATHS: dict[str, tuple[str, str, str]] = {
    "reference": (BLUE, "o", "step of a reference"),
    "own": (GREEN, "^", "step of a right sample"),
}
"""Per kind of path: colour, marker, and its name in the legend."""
_LEAST = 12.0
"""Decades at most: what is rarer stands at the edge."""
_ROOM = 0.06
"""Of the range, on every side."""
_RING = 0.032, 0.043
"""Width and height of a ring, as shares of the axes."""


def availability(rows: Sequence[Row], *, epsilon: float | None = None, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw every step at (probability of its prefix, probability of the step after it), both in powers of ten.

    Below the horizontal line a step is not available, left of the vertical one its prefix is not reached, and below the slanted one
    the path up to and including it is rarer than epsilon. The step that binds its path is marked and bears its number.

    Args:
        rows: `{"path", "step", "log_reach", "log_local", "binds"}`: `reference` or `own`, the step counted from 1, natural
            log-probabilities, and whether this step binds its path.
        epsilon: Rate under which something is out of support, drawn as lines.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: A path is none of `PATHS`.
    """
    check_known("path", (row["path"] for row in rows), PATHS)
    with paper():
        ax = ax or new_axes(4.6, 3.9)
        known = [row for row in rows if not any(math.isnan(number(row, key)) for key in ("log_reach", "log_local"))]
        remember(ax, known)
        handles: list[Artist] = []
        places = [(_decades(row, "log_reach"), _decades(row, "log_local")) for row in known]
        edge = math.log10(epsilon) if epsilon else 0.0
        left, bottom = (min([edge, -1.0, *values]) for values in ([p[0] for p in places], [p[1] for p in places]))
        ax.set(xlim=(left * (1 + _ROOM), -left * _ROOM), ylim=(bottom * (1 + _ROOM), -bottom * _ROOM))
        if epsilon:
            line: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "zorder": 1}
            handles.append(ax.axhline(edge, linestyle=(0, (4, 3)), label="ε", **line))
            ax.axvline(edge, linestyle=(0, (4, 3)), **line)
            handles += ax.plot([edge, 0.0], [0.0, edge], linestyle="-", label="prefix and step together ε", **line)
        for kind, (colour, marker, name) in PATHS.items():
            mine = [place for row, place in zip(known, places, strict=True) if row["path"] == kind]
            if mine:
                x, y = np.array(mine).T
                ax.scatter(x, y, s=16, marker=marker, facecolors=colour, edgecolors=PAPER, linewidths=0.4, alpha=0.55, zorder=2)
                handles.append(Line2D([], [], linestyle="none", marker=marker, markersize=4.5, color=colour, label=name))
        binding = [(str(row["step"]), place) for row, place in zip(known, places, strict=True) if row.get("binds")]
        if binding:
            _draw_binding(ax, binding)
            ring: dict[str, Any] = {"color": VERMILION, "markerfacecolor": PAPER, "markersize": 7.5, "markeredgewidth": 1.3}
            handles.append(Line2D([], [], linestyle="none", marker="o", label="binds (which step)", **ring))
        if not known:
            empty_note(ax, "no right path is known")
        ax.set(xlabel="probability of reaching the step's prefix", ylabel="probability of the step after it")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
        ax.grid(True, axis="both")
        put_head(ax, handles, title=title)
    return ax


def _decades(row: Row, key: str) -> float:
    return max(-_LEAST, min(0.0, number(row, key) / math.log(10)))


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(value: float) -> str:
    return short_number(10.0**value, 1) if value > -2.5 else "10" + f"{value:.0f}".translate(_RAISED)


def _draw_binding(ax: Axes, steps: Sequence[tuple[str, tuple[float, float]]]) -> None:
    """Draw a ring with the step's number in it; of rings that lie upon one another the first keeps its number, on top."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    written: list[tuple[float, float]] = []
    for step, (x, y) in steps:
        at = (x - left) / (right - left), (y - bottom) / (top - bottom)
        first = all(abs(at[0] - a) > _RING[0] or abs(at[1] - b) > _RING[1] for a, b in written)
        ax.scatter(
            [x],
            [y],
            s=72,
            marker="o",
            facecolors=PAPER if first else "none",
            edgecolors=VERMILION,
            linewidths=1.3,
            zorder=4 if first else 3,
        )
        if first:
            written.append(at)
            ax.text(x, y, step, fontsize=NOTE - 1, ha="center", va="center_baseline", color=INK, zorder=5)
