"""Groups without a learning signal, by group size and cause."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from posttrain.analysis.figures.palette import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    NOTE,
    ORANGE,
    PAPER,
    PURPLE,
    SHARE_LABELS,
    SHARE_TICKS,
    VERMILION,
)
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number

CAUSES: dict[str, tuple[str, str, str]] = {
    "too_hard": ("too hard", VERMILION, ""),
    "unread": ("unread", PURPLE, "xxxx"),
    "truncated": ("truncated", ORANGE, "////"),
    "format": ("format", GREEN, "----"),
    "missing_grade": ("without grades", MUTED, "++++"),
    "too_easy": ("too easy", BLUE, "\\\\\\\\"),
}
"""Cause → words, colour and hatch, from the axis upwards."""
_OPACITY = 0.5
_SMALLEST = 0.005
"""Share up to which a cause is not shown."""


def group_signal_by_size(
    rows: Sequence[Row], *, group_size: int | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the share of groups without signal against the group size: causes as layers, the whole as a line with its interval.

    Args:
        rows: `{"group_size", "estimate", "low", "high"}` and a share for each of `CAUSES`; where there is no estimate, the bounds alone are drawn.
        group_size: The size that is planned; marked by a dotted line.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    with paper():
        ax = ax or new_axes()
        known = sorted((row for row in rows if math.isfinite(number(row, "low"))), key=lambda row: number(row, "group_size"))
        remember(ax, known)
        handles: list[Artist] = []
        ax.set(ylim=(-0.02, 1.04), xlabel="group size G, samples per prompt", ylabel="groups without signal")
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        if not known:
            ax.set_xticks([])
            empty_note(ax, "no sample has a grade")
        else:
            handles = _draw(ax, known)
            sizes = [int(number(row, "group_size")) for row in known]
            ax.set_xscale("log", base=2)
            ax.set_xticks([size for size in sizes if size.bit_count() == 1] or sizes[:1])
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.minorticks_off()
            if group_size is not None and sizes[0] <= group_size <= sizes[-1]:
                handles.append(ax.axvline(group_size, color=MUTED, linewidth=1.0, linestyle=":", label=f"G = {group_size}"))
        put_head(ax, handles, title=title)
    return ax


def _draw(ax: Axes, rows: Sequence[Row]) -> list[Artist]:
    """Draw the layers and the line; returns what a legend says of them."""
    handles: list[Artist] = []
    sizes, low, high, estimate = (
        np.array([number(row, key) for row in rows]) for key in ("group_size", "low", "high", "estimate")
    )
    base = np.zeros(len(rows))
    for cause, (words, colour, hatch) in CAUSES.items():
        values = np.array([number(row, cause) for row in rows])
        if not np.nanmax(np.append(values, 0.0)) > _SMALLEST:
            continue
        top = base + values
        ax.fill_between(sizes, base, top, facecolor=colour, alpha=_OPACITY, hatch=hatch, edgecolor=PAPER, linewidth=0)
        handles.append(Patch(facecolor=colour, alpha=_OPACITY, hatch=hatch, edgecolor=PAPER, label=words))
        base = top
    ax.fill_between(sizes, low, high, color=INK, alpha=0.14, linewidth=0)
    ax.plot(sizes, estimate, color=INK, marker="o", markersize=3.5, linewidth=1.2)
    if np.isnan(estimate).any():
        ax.text(0.98, 0.03, "band alone: bounds", transform=ax.transAxes, ha="right", fontsize=NOTE, color=MUTED)
    return handles
