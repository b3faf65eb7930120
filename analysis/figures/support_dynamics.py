"""SRR, NDR, SDS and NSCR beside what the same model, sampled twice, gives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from posttrain.analysis.figures.palette import BLUE, INK, MUTED, NOTE, PAPER
from posttrain.analysis.figures.style import Row, empty_note, name_rows, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number, short_number

_HALF = 0.26
"""Half the height of the field of a null."""


def support_dynamics(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw each number as a point, on the field in which it would lie if nothing had changed.

    Args:
        rows: `{"name", "estimate", "null_estimate", "null_low", "null_high"}`, and `low` and `high` where the number itself has an
            interval; NaN or None where a ratio is 0/0.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Source: arXiv 2507.14843; the null, because two runs of one model differ too.
    """
    with paper():
        ax = ax or new_axes(4.6, 2.0)
        remember(ax, rows)
        lowest = 0.0
        for position, row in enumerate(rows):
            value, middle, low, high = (number(row, key) for key in ("estimate", "null_estimate", "null_low", "null_high"))
            lowest = min([lowest, *(bound for bound in (value, low) if math.isfinite(bound))])
            if math.isfinite(low) and math.isfinite(high):
                ax.add_patch(Rectangle((low, position - _HALF), high - low, 2 * _HALF, facecolor=INK, alpha=0.16, linewidth=0))
                ax.plot([low, low], [position - _HALF, position + _HALF], color=MUTED, linewidth=0.8)
                ax.plot([high, high], [position - _HALF, position + _HALF], color=MUTED, linewidth=0.8)
            if math.isfinite(middle):
                ax.plot([middle] * 2, [position - _HALF, position + _HALF], color=INK, linewidth=1.0, linestyle=":")
            ends = [number(row, key) for key in ("low", "high")]
            if all(map(math.isfinite, ends)) and ends[0] < ends[1]:
                ax.plot(ends, [position, position], color=BLUE, linewidth=1.2, zorder=2)
                lowest = min(lowest, ends[0])
            if math.isfinite(value):
                ax.plot([value], [position], marker="o", markersize=6, color=BLUE, markeredgecolor=PAPER, zorder=3, clip_on=False)
            words = short_number(value, 2) if math.isfinite(value) else "undefined"
            ax.text(1.03, position, words, transform=ax.get_yaxis_transform(), va="center", fontsize=NOTE)
        ax.set_yticks(range(len(rows)), labels=[str(row["name"]) for row in rows])
        ax.set(xlim=(min(-0.02, 1.1 * lowest), 1.02), ylim=(max(1, len(rows)) - 0.5, -0.5))
        ticks = [tick for tick in (-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1) if tick >= 1.1 * lowest]
        ax.set_xticks(ticks, labels=[short_number(tick, 2) for tick in ticks])
        name_rows(ax)
        if not rows:
            empty_note(ax, "nothing was compared")
        handles: list[Artist] = [
            Line2D([], [], linestyle="none", marker="o", markersize=6, color=BLUE, markeredgecolor=PAPER, label="measured"),
            Patch(facecolor=INK, alpha=0.16, label="same model sampled twice"),
        ]
        put_head(ax, handles, title=title)
    return ax
