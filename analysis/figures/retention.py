"""What a stage gained on its targets and what it cost elsewhere: behaviors before and after, paired by problem."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import INK, MUTED, NOTE, PAPER, SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import (
    Row,
    check_known,
    empty_note,
    name_rows,
    new_axes,
    paper,
    printable,
    put_head,
    remember,
    wrapped,
)
from posttrain.analysis.number_format import number

GROUPS: dict[str, str] = {"target": "target", "beside": "not trained on", "retention": "retention"}
"""Groups of behaviors, from top to bottom, and what they are called."""
_HEADING = 0.6
"""Height of the name of a group; behaviors are 1 apart."""
_NAME_CHARS = 16
"""Most characters of a name on one line."""
_SPREAD = 0.5
"""Height that the runs of one behavior share."""


def retention(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw each behavior from its value before (hollow) to its value after (filled), targets above, retention below.

    The bar through the value after is the interval of the *paired change*, put where the change leads: it crosses the hollow marker
    where no change is shown.

    Args:
        rows: `{"run", "behavior", "group", "before", "after", "estimate", "low", "high"}`: the group is one of `GROUPS`, the last
            three are the paired change of the metric with its interval. Rows of one behavior stand together.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: A group is none of `GROUPS`.
    """
    check_known("group", (row["group"] for row in rows), GROUPS)
    places = _places(rows)
    runs = list(dict.fromkeys(str(row["run"]) for row in rows))
    with paper():
        ax = ax or new_axes(height=retention_height(rows))
        remember(ax, rows)
        for row in rows:
            run = runs.index(str(row["run"]))
            shift = 0.0 if len(runs) == 1 else _SPREAD * (run / (len(runs) - 1) - 0.5)
            _draw_row(ax, row, places[str(row["group"]), str(row["behavior"])] + shift, *SERIES[run % len(SERIES)])
        for index, group in enumerate(dict.fromkeys(group for group, _ in places)):
            top = min(place for (other, _), place in places.items() if other == group) - 0.5 - _HEADING / 2
            ax.text(0.0, top, GROUPS[group], va="center", fontsize=NOTE, style="italic", color=MUTED)
            if index:
                ax.axhline(top - _HEADING / 2, color=MUTED, linewidth=0.6)
        ax.set_yticks(list(places.values()), labels=[wrapped(name, _NAME_CHARS) for _, name in places], fontsize=NOTE)
        ax.set(xlim=(-0.03, 1.03), ylim=(max(places.values(), default=0.5) + 0.5, -_HEADING / 2), xlabel="pass@1")
        ax.set_xticks(SHARE_TICKS, labels=SHARE_LABELS)
        name_rows(ax)
        if not rows:
            empty_note(ax, "no behavior was compared")
        put_head(ax, _handles(runs), title=title)
    return ax


def retention_height(rows: Sequence[Row]) -> float:
    """Inches that the rows need."""
    runs = len({row["run"] for row in rows})
    return 0.6 + max([1.0, *_places(rows).values()]) * (0.24 + 0.13 * max(1, runs))


def _places(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Where each behavior stands, with room for a heading before each group."""
    places: dict[tuple[str, str], float] = {}
    y = 0.0
    for group in GROUPS:
        names = dict.fromkeys(str(row["behavior"]) for row in rows if row["group"] == group)
        y += _HEADING if names else 0.0
        for name in names:
            places[group, name] = y + 0.5
            y += 1.0
    return places


def _draw_row(ax: Axes, row: Row, y: float, colour: str, marker: str) -> None:
    before, after, change, low, high = (number(row, key) for key in ("before", "after", "estimate", "low", "high"))
    if math.isnan(before) or math.isnan(after):
        ax.text(0.0, y, "undefined", va="center", fontsize=NOTE, color=MUTED)
        return
    ax.annotate(
        "", (after, y), (before, y), arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.2, "linestyle": (0, (2, 1.5))}
    )
    if math.isfinite(low) and math.isfinite(high):
        ends = [min(1.0, max(0.0, after - change + bound)) for bound in (low, high)]
        ax.plot(ends, [y, y], color=colour, linewidth=2.4, alpha=0.55, solid_capstyle="butt", zorder=2)
        for end in ends:
            ax.plot([end, end], [y - 0.07, y + 0.07], color=colour, linewidth=1.0, zorder=2)
    ax.plot([before], [y], marker=marker, color=colour, markerfacecolor=PAPER, markeredgewidth=1.1, zorder=3, clip_on=False)
    ax.plot([after], [y], marker=marker, color=colour, zorder=4, clip_on=False)


def _handles(runs: Sequence[str]) -> list[Artist]:
    handles: list[Artist] = []
    if len(runs) > 1:
        for index, run in enumerate(runs):
            colour, marker = SERIES[index % len(SERIES)]
            handles.append(Line2D([], [], linestyle="none", color=colour, marker=marker, label=printable(run, limit=30)))
    colour, marker = (INK, "o") if len(runs) > 1 else SERIES[0]
    return [
        *handles,
        Line2D([], [], linestyle="none", color=colour, marker=marker, markerfacecolor=PAPER, markeredgewidth=1.1, label="before"),
        Line2D([], [], linestyle="none", color=colour, marker=marker, label="after"),
        Line2D([], [], color=colour, linewidth=2.4, alpha=0.55, label="paired 95 % of the change"),
    ]
