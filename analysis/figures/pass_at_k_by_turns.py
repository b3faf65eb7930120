"""pass@(k, T): the chance that one of k samples is right within T turns of the model, against T."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number


def pass_at_k_by_turns(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw pass@(k, T) against T, a line and a band per k. T is on a logarithmic axis where not every T has a row.

    Args:
        rows: `{"turns", "k", "estimate", "low", "high"}`.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    known = sorted((row for row in rows if math.isfinite(number(row, "estimate"))), key=lambda row: number(row, "turns"))
    with paper():
        ax = ax or new_axes()
        remember(ax, known)
        handles: list[Artist] = []
        for index, k in enumerate(sorted({int(row["k"]) for row in known})):
            colour, marker = SERIES[index % len(SERIES)]
            mine = [row for row in known if int(row["k"]) == k]
            turns, estimate, low, high = ([number(row, key) for row in mine] for key in ("turns", "estimate", "low", "high"))
            ax.fill_between(turns, low, high, color=colour, alpha=0.16, linewidth=0)
            ax.plot(turns, estimate, color=colour, marker=marker, clip_on=False)
            handles.append(Line2D([], [], color=colour, marker=marker, label=f"pass@({k}, T)"))
        ax.set(ylim=(-0.03, 1.03), xlabel="turns allowed, T", ylabel="success within T turns")
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        limits = sorted({int(row["turns"]) for row in known})
        if not limits:
            ax.set_xticks([])
            empty_note(ax, "no sample has turns")
        elif limits == list(range(1, len(limits) + 1)):
            ax.set(xlim=(0.6, limits[-1] + 0.4))
            ax.set_xticks(limits)
        else:
            ax.set_xscale("log", base=2)
            ax.set(xlim=(limits[0] / 1.2, limits[-1] * 1.2))
            # Two ticks that stand close to each other would overlap.
            ax.set_xticks([one for one, following in zip(limits, [*limits[1:], math.inf], strict=True) if following > 1.4 * one])
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.minorticks_off()
        put_head(ax, handles, title=title)
    return ax
