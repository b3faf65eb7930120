"""Forest plot of checks: estimate, interval, threshold and outcome, one check per row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from posttrain.analysis.figures import style
from posttrain.analysis.figures.palette import GREEN, INK, MUTED, NOTE, ORANGE, PAPER, SHARE_LABELS, SHARE_TICKS, VERMILION
from posttrain.analysis.figures.style import (
    Look,
    Row,
    check_known,
    draw_mark,
    empty_note,
    legend_mark,
    new_axes,
    paper,
    put_head,
    remember,
    wrapped,
)
from posttrain.analysis.number_format import number, short_number

OUTCOMES: dict[str, Look] = {
    "met": (GREEN, "o", True),
    "not_met": (VERMILION, "X", True),
    "inconclusive": (ORANGE, "D", False),
}
"""Per outcome."""
_NAME_CHARS = 20
"""Most characters of a name on one line; longer ones stand on two."""


def checks(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw checks as a forest plot.

    The grey field of a row is where the check is met: met means that the whole interval lies inside it, not met that the whole
    interval lies outside, inconclusive that it straddles the threshold. Rows whose numbers leave [0, 1] are drawn to a
    scale of their own, which is written under the name.

    Args:
        rows: `{"name", "op", "estimate", "low", "high", "threshold", "outcome"}` as in `diagnosis.json`.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: An outcome is none of `OUTCOMES`.
    """
    check_known("outcome", (row["outcome"] for row in rows), OUTCOMES)
    with paper():
        ax = ax or new_axes(height=checks_height(rows))
        labels = []
        for position, row in enumerate(rows):
            start, end = _scale(row)
            _draw_check(ax, position, row, start, end)
            name = wrapped(str(row["name"]), _NAME_CHARS)
            scale = "" if (start, end) == (0.0, 1.0) else f" ({short_number(start, 2)} to {short_number(end, 2)})"
            labels.append(name + scale)
        keys = ("name", "op", "estimate", "low", "high", "threshold", "n", "outcome")
        remember(ax, [{key: row.get(key) for key in keys} for row in rows])
        ax.set_yticks(range(len(rows)), labels=labels, fontsize=NOTE)
        ax.set(xlim=(-0.02, 1.02), ylim=(max(1, len(rows)) - 0.5, -0.5))
        ax.set_xticks(SHARE_TICKS, labels=SHARE_LABELS)
        ax.grid(False)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        if not rows:
            empty_note(ax, "no checks")
        handles: list[Artist] = [
            legend_mark(look, outcome.replace("_", " "), linewidth=1.4, markersize=5) for outcome, look in OUTCOMES.items()
        ]
        handles.append(Rectangle((0, 0), 1, 1, facecolor=INK, alpha=0.1, label="where it is met"))
        widest = max((style.text_points(line, NOTE) for label in labels for line in label.split("\n")), default=0.0)
        put_head(ax, handles, title=title, labels=max(style.LABEL_POINTS, widest + 2 * NOTE))
    return ax


def checks_height(rows: Sequence[Row]) -> float:
    """Inches that the rows need."""
    return 0.85 + 0.36 * max(1, len(rows))


def _scale(row: Row) -> tuple[float, float]:
    values = [value for key in ("estimate", "low", "high", "threshold") if math.isfinite(value := number(row, key))]
    if not values or (min(values) >= 0 and max(values) <= 1):
        return 0.0, 1.0
    start, end = min(0.0, *values), max(0.0, *values)
    return (start * 1.1, end * 1.1)


def _draw_check(ax: Axes, position: int, row: Row, start: float, end: float) -> None:
    look = OUTCOMES[str(row["outcome"])]
    colour = look[0]
    place = [(number(row, key) - start) / (end - start) for key in ("estimate", "low", "high", "threshold")]
    estimate, low, high, threshold = place
    if math.isfinite(threshold):
        left, right = (threshold, 1.02) if row["op"] == ">=" else (-0.02, threshold)
        ax.add_patch(Rectangle((left, position - 0.36), right - left, 0.72, facecolor=INK, alpha=0.08, linewidth=0, zorder=0))
        ax.plot([threshold] * 2, [position - 0.36, position + 0.36], color=INK, linewidth=1.1, zorder=2, solid_capstyle="butt")
        words = f"{'≥' if row['op'] == '>=' else '≤'} {short_number(number(row, 'threshold'), 2)}"
        near_right = threshold > 0.85
        ax.annotate(
            words,
            (threshold, position - 0.34),
            (-3 if near_right else 3, 0),
            textcoords="offset points",
            fontsize=NOTE - 0.5,
            va="top",
            ha="right" if near_right else "left",
        )
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([low, high], [position + 0.08] * 2, color=colour, linewidth=2.0, zorder=3, solid_capstyle="butt")
        for bound in (low, high):
            ax.plot([bound] * 2, [position - 0.03, position + 0.19], color=colour, linewidth=1.3, zorder=3)
    if math.isfinite(estimate):
        draw_mark(ax, estimate, position + 0.08, look, markersize=6, edges=(0.6, 1.5), rim=PAPER, zorder=4)
    else:
        ax.text(0.01, position + 0.08, "undefined", va="center", fontsize=NOTE, color=MUTED)
