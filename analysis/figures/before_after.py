"""Success before against success after, one point per problem, with what happened to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PAPER,
    VERMILION,
    Row,
    empty_note,
    new_axes,
    number,
    paper,
    printable,
    remember,
)

CHANGES: dict[str, tuple[str, str, bool]] = {
    "preserved": (BLUE, "o", True),
    "expanded": (GREEN, "^", True),
    "attrited": (VERMILION, "v", True),
    "out_of_support": (INK, "s", False),
    "undetermined": (MUTED, "D", False),
}
"""Per state of `compare.json`: colour, marker, and whether it is filled."""


def before_after(
    rows: Sequence[Row],
    *,
    before: str = "before",
    after: str = "after",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw every problem at (success rate before, success rate after).

    Problems at the same place (to two digits) and in the same state share one marker whose area grows with their number,
    which is written in it; nothing is moved.

    Args:
        rows: `{"id", "before", "after", "state"}` as in `compare.json`; rows without one of the two rates are left out.
        before: Name of the first run.
        after: Name of the second run.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: A state is none of `CHANGES`.
    """
    unknown = {str(row["state"]) for row in rows} - set(CHANGES)
    if unknown:
        raise ValueError(f"unknown state {sorted(unknown)[0]!r}; allowed are {', '.join(CHANGES)}")
    with paper():
        ax = ax or new_axes(4.6, 3.3, rect=(0.115, 0.135, 0.54, 0.54 * 4.6 / 3.3))
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        ax.text(0.8, 0.74, "no change", ha="left", va="top", fontsize=7.5, color=MUTED)
        known = [row for row in rows if not math.isnan(number(row, "before")) and not math.isnan(number(row, "after"))]
        remember(ax, [{key: row.get(key) for key in ("id", "before", "after", "state")} for row in known])
        places = Counter((str(row["state"]), round(number(row, "before"), 2), round(number(row, "after"), 2)) for row in known)
        # The largest first, so that no marker hides a smaller one.
        for (state, x, y), count in sorted(places.items(), key=lambda item: -item[1]):
            colour, marker, filled = CHANGES[state]
            ax.scatter(
                [x],
                [y],
                s=_area(count),
                marker=marker,
                facecolors=colour if filled else "none",
                edgecolors=PAPER if filled else colour,
                linewidths=0.7 if filled else 1.3,
                alpha=0.85 if filled else 1.0,
                zorder=3,
                clip_on=False,
            )
            if count > 1:
                ax.text(x, y, str(count), fontsize=6.5, ha="center", va="center", color=PAPER if filled else INK, zorder=4)
        if not known:
            empty_note(ax, "no problem was measured in both runs")
        ax.set(
            xlim=(-0.05, 1.05),
            ylim=(-0.05, 1.05),
            xlabel=f"success rate, {printable(before)}",
            ylabel=f"success rate, {printable(after)}",
        )
        for set_ticks in (ax.set_xticks, ax.set_yticks):
            set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", ".25", ".5", ".75", "1"])
        ax.set_aspect("equal")
        totals = Counter(str(row["state"]) for row in known)
        handles = [
            Line2D(
                [],
                [],
                linestyle="none",
                marker=marker,
                markersize=6.5,
                color=colour,
                markerfacecolor=colour if filled else "none",
                label=f"{state.replace('_', ' ')}: {totals[state]}",
            )
            for state, (colour, marker, filled) in CHANGES.items()
        ]
        ax.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            title=f"n = {len(known)} problems",
            title_fontsize=8,
            alignment="left",
            handlelength=1.2,
        )
        if title:
            ax.set_title(printable(title))
    return ax


def _area(count: int) -> float:
    """Square points; from two problems on, the number has to fit in."""
    return 28.0 if count == 1 else 50.0 + 18.0 * count
