"""Success with and without help, or at other temperatures: one line per condition, its gain beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import BLUE, GREEN, INK, MUTED, NOTE, PAPER, SHARE_LABELS, SHARE_TICKS, VERMILION
from posttrain.analysis.figures.style import (
    Look,
    Row,
    draw_interval,
    draw_mark,
    empty_note,
    legend_mark,
    name_rows,
    new_axes,
    paper,
    printable,
    put_head,
    remember,
    wrapped,
)
from posttrain.analysis.number_format import format_number, number

_KINDS: dict[str, Look] = {
    "better": (GREEN, "^", True),
    "worse": (VERMILION, "v", True),
    "no change shown": (BLUE, "D", False),
}
"""Per kind of gain."""
_NAME_CHARS = 20
"""Most characters of a name on one line; longer ones stand on two."""


def scaffold(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the success rate of each condition with its interval, and write its paired gain beside it.

    The first row is what the others are compared with; it has no gain, and a dashed line leads it through all rows. A gain counts as
    shown where its interval leaves zero out, which the paired interval may do where the intervals of the two rates overlap.

    Args:
        rows: `{"condition", "n_problems", "n", "c", "rate", "low", "high", "gain", "gain_low", "gain_high"}`, the last three of which are
            null in the first row; as the probes `scaffold` and `decoding` find them.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    with paper():
        ax = ax or new_axes(height=scaffold_height(rows))
        remember(ax, rows)
        for position, row in enumerate(rows):
            _draw_row(ax, position, row)
        if rows and math.isfinite(baseline := number(rows[0], "rate")):
            ax.plot([baseline, baseline], [0, len(rows) - 0.6], color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
        ax.set_yticks(range(len(rows)), labels=[_name(row, rows[0]) for row in rows], fontsize=NOTE)
        ax.set(xlim=(-0.02, 1.02), ylim=(max(1, len(rows)) - 0.5, -0.5), xlabel="success rate")
        ax.set_xticks(SHARE_TICKS, labels=SHARE_LABELS)
        name_rows(ax)
        if not rows:
            empty_note(ax, "nothing was measured")
        put_head(ax, _handles(rows), title=title)
    return ax


def scaffold_height(rows: Sequence[Row]) -> float:
    """Inches that the rows need."""
    return 0.95 + 0.3 * max(1, len(rows))


def _draw_row(ax: Axes, position: int, row: Row) -> None:
    rate, low, high, gain = (number(row, key) for key in ("rate", "low", "high", "gain"))
    look = (INK, "o", True) if position == 0 else _KINDS[_kind(row)]
    if math.isfinite(low) and math.isfinite(high):
        draw_interval(ax, low, high, position, color=look[0], cap=0.12)
    if math.isfinite(rate):
        draw_mark(ax, rate, position, look, markersize=5.5, edges=(1.1, 1.1), rim=look[0], zorder=4, clip_on=False)
    else:
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
        ax.text(0.01, position, "not identified", va="center", fontsize=NOTE, color=MUTED, bbox=box, zorder=5)
    words = "paired gain" if position == 0 else _gain_words(gain, row)
    ax.annotate(
        words,
        (1.0, position),
        (6, 0),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=NOTE,
        color=MUTED if position == 0 else INK,
        annotation_clip=False,
    )


def _kind(row: Row) -> str:
    if number(row, "gain_low") > 0:
        return "better"
    return "worse" if number(row, "gain_high") < 0 else "no change shown"


def _gain_words(gain: float, row: Row) -> str:
    """Return the gain with its interval, on two lines."""
    if not math.isfinite(gain):
        return "gain undefined"
    value, low, high = (_signed(each) for each in (gain, number(row, "gain_low"), number(row, "gain_high")))
    return f"{value}\n[{low}, {high}]"


def _signed(value: float) -> str:
    return format_number(value, 2, signed=True)


def _name(row: Row, first: Row) -> str:
    """Return the condition, with its number of problems where the first row has more of them."""
    part = "" if row["n_problems"] == first["n_problems"] else f" ({row['n_problems']} of {first['n_problems']} problems)"
    return wrapped(f"{row['condition']}{part}", _NAME_CHARS, lines=3)


def _handles(rows: Sequence[Row]) -> list[Artist]:
    if not rows:
        return []
    handles: list[Artist] = [
        Line2D([], [], color=INK, marker="o", linestyle=(0, (3, 2)), linewidth=0.9, label=printable(str(rows[0]["condition"])))
    ]
    shown = {_kind(row) for row in rows[1:]}
    return handles + [legend_mark(look, kind, markersize=5, linewidth=1.4) for kind, look in _KINDS.items() if kind in shown]
