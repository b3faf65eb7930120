"""pass@1 of each behavior after each round of a loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import MUTED, NOTE, PAPER, SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, printable, put_head, remember
from posttrain.analysis.number_format import number

_SPREAD = 0.24
"""Width that the behaviors share at a round; rounds are 1 apart."""
_MOST_STAGES = 8
"""Rounds up to which the name of each stage is written under its number."""


def rounds(
    rows: Sequence[Row],
    *,
    stages: Sequence[str] = (),
    kept: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw pass@1 with its interval after each round, a line per behavior; that of a retention behavior is dashed and hollow.

    A line goes from each round to the one that it started from: where a loop went back, two lines leave one point.

    Args:
        rows: `{"behavior", "group", "round", "from", "estimate", "low", "high"}`: round 0 is the start, `from` the round that it started from
            (None for the start), the group is `target` or `retention`.
        stages: Name of the stage of each round, the first round first.
        kept: The round whose checkpoint to keep; it is marked.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    names = list(dict.fromkeys(str(row["behavior"]) for row in rows))
    known = [row for row in rows if not math.isnan(number(row, "estimate"))]
    with paper():
        ax = ax or new_axes()
        remember(ax, rows)
        last = max((int(row["round"]) for row in rows), default=0)
        if kept is not None:
            ax.axvspan(kept - 0.3, kept + 0.3, color=MUTED, alpha=0.13, linewidth=0)
        handles: list[Artist] = []
        for index, name in enumerate(names):
            shift = 0.0 if len(names) == 1 else _SPREAD * (index / (len(names) - 1) - 0.5)
            mine = [row for row in known if row["behavior"] == name]
            handles.append(_draw_behavior(ax, mine, shift, index, name))
        ax.set(xlim=(-0.4, last + 0.4), ylim=(-0.03, 1.03), xlabel="round", ylabel="pass@1")
        labels = ["start", *(str(one) for one in range(1, last + 1))]
        if len(stages) == last <= _MOST_STAGES:
            labels[1:] = [f"{one}\n{printable(stage, limit=14)}" for one, stage in enumerate(stages, start=1)]
        ax.set_xticks(range(last + 1), labels=labels, fontsize=NOTE)
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        if not known:
            empty_note(ax, "no behavior was measured")
        put_head(ax, handles, title=title)
    return ax


def _draw_behavior(ax: Axes, rows: Sequence[Row], shift: float, index: int, name: str) -> Line2D:
    """Draw one behavior, and return its entry in the legend."""
    colour, marker = SERIES[index % len(SERIES)]
    by_round = {int(row["round"]): row for row in rows}
    retained = any(row["group"] == "retention" for row in rows)
    line: Literal["dashed", "solid"] = "dashed" if retained else "solid"
    for row in rows:
        x, y = int(row["round"]) + shift, number(row, "estimate")
        start = None if row.get("from") is None else by_round.get(int(row["from"]))
        if start is not None:
            ax.plot([int(start["round"]) + shift, x], [number(start, "estimate"), y], color=colour, linestyle=line, linewidth=1.1)
        low, high = number(row, "low"), number(row, "high")
        if math.isfinite(low) and math.isfinite(high):
            ax.plot([x, x], [low, high], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt", zorder=2)
        face = PAPER if retained else colour
        ax.plot([x], [y], linestyle="none", color=colour, marker=marker, markerfacecolor=face, zorder=3, clip_on=False)
    label = f"{printable(name, limit=30)}{' (retention)' if retained else ''}"
    face = PAPER if retained else colour
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle=line, label=label)
