"""pass@1 and pass@k of one behavior along the checkpoints of a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import MUTED, NOTE, SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, printable, put_head, remember
from posttrain.analysis.number_format import number

_MOST_LABELS = 10
"""Checkpoints up to which each has its label under the axis."""


def checkpoints(
    rows: Sequence[Row], *, steps: bool = False, kept: int | None = None, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw pass@k along the checkpoints, a line and a band per k.

    Args:
        rows: `{"checkpoint", "place", "k", "estimate", "low", "high"}`: the label of a checkpoint, where it stands (its step, or its index),
            and its interval; checkpoints in their order.
        steps: Whether places are steps of training.
        kept: Index of the checkpoint to keep; it is marked.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    ks = sorted({int(row["k"]) for row in rows})
    places = {str(row["checkpoint"]): float(row["place"]) for row in rows}
    with paper():
        ax = ax or new_axes()
        remember(ax, rows)
        positions = list(places.values())
        gap = min((b - a for a, b in pairwise(positions)), default=1.0)
        if kept is not None and kept < len(positions):
            ax.axvspan(positions[kept] - 0.25 * gap, positions[kept] + 0.25 * gap, color=MUTED, alpha=0.13, linewidth=0)
        handles: list[Artist] = []
        for index, k in enumerate(ks):
            colour, marker = SERIES[index % len(SERIES)]
            mine = [row for row in rows if int(row["k"]) == k and not math.isnan(number(row, "estimate"))]
            x = [float(row["place"]) for row in mine]
            low, high = ([number(row, end) for row in mine] for end in ("low", "high"))
            ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            ax.plot(x, [number(row, "estimate") for row in mine], color=colour, marker=marker, clip_on=False)
            handles.append(Line2D([], [], color=colour, marker=marker, label=f"pass@{k}"))
        ends = (min(positions, default=0.0) - 0.4 * gap, max(positions, default=1.0) + 0.4 * gap)
        ax.set(xlim=ends, ylim=(-0.03, 1.03), xlabel="training step" if steps else "checkpoint", ylabel="success")
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        if not steps and len(places) <= _MOST_LABELS:
            ax.set_xticks(positions, labels=[printable(label, limit=14) for label in places], fontsize=NOTE)
        if not any(not math.isnan(number(row, "estimate")) for row in rows):
            empty_note(ax, "no checkpoint was measured")
        put_head(ax, handles, title=title)
    return ax
