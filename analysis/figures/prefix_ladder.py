"""Success against how much of a reference path is given, with placebos beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from posttrain.analysis.figures.palette import BLUE, INK, MUTED, ORANGE, SHARE_LABELS, SHARE_TICKS, VERMILION
from posttrain.analysis.figures.style import (
    Look,
    Row,
    draw_mark,
    empty_note,
    legend_mark,
    new_axes,
    paper,
    printable,
    put_head,
    remember,
)
from posttrain.analysis.number_format import number

REFERENCE = "reference"
PLACEBOS: dict[str, Look] = {
    "reference, sampled again": (BLUE, "D", True),
    "other problem's prefix": (VERMILION, "s", False),
    "wrong step": (ORANGE, "X", True),
}
"""Per condition beside the path itself."""
_UNKNOWN = (INK, "P", True)
_APART = 0.022
"""Distance of markers that stand at one fraction, as a share of the width."""


def prefix_ladder(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw success from the first part of a path as a curve, and placebos as markers where they were sampled.

    Args:
        rows: `{"fraction", "condition", "n", "c", "rate", "low", "high"}`: of the condition `reference` one row per point of the curve,
            of every other condition one per marker.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    with paper():
        ax = ax or new_axes()
        known = [row for row in rows if math.isfinite(number(row, "rate")) and math.isfinite(number(row, "fraction"))]
        remember(ax, known)
        handles: list[Artist] = []
        curve = sorted((row for row in known if row["condition"] == REFERENCE), key=lambda row: number(row, "fraction"))
        if curve:
            x, rate, low, high = ([number(row, key) for row in curve] for key in ("fraction", "rate", "low", "high"))
            ax.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0)
            handles += ax.plot(
                x, rate, color=BLUE, marker="o", markersize=4, linewidth=1.6, label="first part of the path", zorder=3
            )
        others = [row for row in known if row["condition"] != REFERENCE]
        conditions = sorted({str(row["condition"]) for row in others}, key=lambda name: (_place(name), name))
        for index, condition in enumerate(conditions):
            look = PLACEBOS.get(condition, _UNKNOWN)
            aside = (index - (len(conditions) - 1) / 2) * _APART
            for row in others:
                if row["condition"] == condition:
                    _draw_marker(ax, row, aside, look)
            handles.append(legend_mark(look, printable(condition), linestyle="none", markersize=5.5))
        if not known:
            empty_note(ax, "no prefix was given")
        furthest = max((number(row, "fraction") for row in known), default=1.0)
        ax.set(
            xlim=(-0.03, max(0.25, furthest) + 0.06),
            ylim=(-0.03, 1.03),
            xlabel="share of the reference path that is given",
            ylabel="success rate (interval)",
        )
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        put_head(ax, handles, title=title)
    return ax


def _place(condition: str) -> int:
    names = list(PLACEBOS)
    return names.index(condition) if condition in names else len(names)


def _draw_marker(ax: Axes, row: Row, aside: float, look: Look) -> None:
    x = number(row, "fraction") + aside
    rate, low, high = (number(row, key) for key in ("rate", "low", "high"))
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([x, x], [low, high], color=look[0], linewidth=1.3, zorder=4, solid_capstyle="butt")
    draw_mark(ax, x, rate, look, markersize=6.5, edges=(0.5, 1.4), rim=MUTED, zorder=5, clip_on=False)
