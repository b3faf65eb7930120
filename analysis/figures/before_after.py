"""Success before against success after, one point per problem, with what happened to it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import BLUE, GREEN, INK, MUTED, NOTE, PAPER, SHARE_LABELS, SHARE_TICKS, VERMILION
from posttrain.analysis.figures.style import Look, Row, check_known, empty_note, legend_mark, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number

CHANGES: dict[str, Look] = {
    "preserved": (BLUE, "o", True),
    "expanded": (GREEN, "^", True),
    "attrited": (VERMILION, "v", True),
    "out_of_support": (INK, "s", False),
    "undetermined": (MUTED, "D", False),
}
"""Per state of `compare.json`."""
_TRIANGLE = 1.5
"""A triangle in a square looks smaller than a disc in it."""
_APART = 0.07
"""Distance from which on numbers do not run into one another."""


def before_after(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw every problem at (success rate before, success rate after).

    Problems at the same place (to two digits) and in the same state share one marker whose area grows with their number,
    which is written in it where there is room; nothing is moved.

    Args:
        rows: `{"id", "before", "after", "state"}` as in `compare.json`; rows without one of the two rates are left out.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: A state is none of `CHANGES`.
    """
    check_known("state", (row["state"] for row in rows), CHANGES)
    with paper():
        ax = ax or new_axes(4.0, 4.4)
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        known = [row for row in rows if not math.isnan(number(row, "before")) and not math.isnan(number(row, "after"))]
        remember(ax, [{key: row.get(key) for key in ("id", "before", "after", "state", "q_value")} for row in known])
        places = Counter((str(row["state"]), round(number(row, "before"), 2), round(number(row, "after"), 2)) for row in known)
        _draw_places(ax, places)
        if not known:
            empty_note(ax, "no problem was measured in both runs")
        ax.set(
            xlim=(-0.06, 1.06),
            ylim=(-0.06, 1.06),
            xlabel="success rate, before",
            ylabel="success rate, after",
        )
        for set_ticks in (ax.set_xticks, ax.set_yticks):
            set_ticks(SHARE_TICKS, labels=SHARE_LABELS)
        ax.grid(True, axis="both")
        ax.set_aspect("equal", anchor="N")
        put_head(ax, _handles(Counter(str(row["state"]) for row in known)), title=title)
    return ax


def _draw_places(ax: Axes, places: Mapping[tuple[str, float, float], int]) -> None:
    """Draw a marker for each state and place, as large as the number of problems there."""
    # The largest first, so that no marker hides a smaller one.
    numbered: list[tuple[float, float]] = []
    for (state, x, y), count in sorted(places.items(), key=lambda item: -item[1]):
        colour, marker, filled = CHANGES[state]
        ax.scatter(
            [x],
            [y],
            s=_area(count) * (_TRIANGLE if marker in "^v" else 1.0),
            marker=marker,
            facecolors=colour if filled else PAPER,
            edgecolors=PAPER if filled else colour,
            linewidths=0.6 if filled else 1.1,
            alpha=0.85,
            zorder=3,
            clip_on=False,
        )
        # Of markers that lie upon one another the largest is told, the others are in the CSV.
        if count > 1 and all(math.hypot(x - a, y - b) > _APART for a, b in numbered):
            numbered.append((x, y))
            ax.text(
                x,
                y,
                str(count),
                fontsize=NOTE - 1,
                ha="center",
                va="center_baseline",
                color=PAPER if filled else INK,
                zorder=4,
            )


def _handles(totals: Mapping[str, int]) -> list[Artist]:
    """Return the entries of the legend, with the number of problems in each state."""
    handles: list[Artist] = [
        legend_mark(look, f"{state.replace('_', ' ')}: {totals[state]}", linestyle="none", markersize=5.5)
        for state, look in CHANGES.items()
    ]
    handles.append(Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="no change"))
    return handles


def _area(count: int) -> float:
    """Square points; from two problems on, the number has to fit in."""
    return 20.0 if count == 1 else min(170.0, 52.0 + 6.0 * count)
