"""Cover@τ against τ: on which share of problems the model is right at least that reliably."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, printable, put_head, remember
from posttrain.analysis.number_format import number

_NUM_MARKERS = 6


def cover_at_tau(series: Mapping[str, Sequence[Row]], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw Cover@τ as steps with a band.

    Its height at a small τ is what is reached at all, at τ = 1 what never fails; pass@k is an average of it that for large k looks at
    small τ alone.

    Args:
        series: Per run the points `{"tau", "estimate", "low", "high"}`, each holding from the τ before it up to its own.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Source: arXiv 2510.08325.
    """
    with paper():
        ax = ax or new_axes()
        handles: list[Artist] = []
        drawn = False
        for index, (label, points) in enumerate(series.items()):
            colour, marker = SERIES[index % len(SERIES)]
            known = sorted((row for row in points if not math.isnan(number(row, "estimate"))), key=lambda row: number(row, "tau"))
            remember(ax, [{"run": label, **row} for row in known])
            if known:
                drawn = True
                taus, estimate, low, high = (
                    np.array([number(row, key) for row in known]) for key in ("tau", "estimate", "low", "high")
                )
                # The share of the first point holds from τ = 0 on.
                taus, (estimate, low, high) = np.append(0.0, taus), (np.append(part[0], part) for part in (estimate, low, high))
                ax.plot(taus, estimate, color=colour, drawstyle="steps-pre")
                ax.fill_between(taus, low, high, color=colour, alpha=0.16, linewidth=0, step="pre")
                # Markers stand at different τ in every run, so that they do not hide one another.
                marks = (np.arange(_NUM_MARKERS) + (index + 1) / (len(series) + 1)) / _NUM_MARKERS
                heights = estimate[np.minimum(np.searchsorted(taus, marks), len(taus) - 1)]
                ax.plot(marks, heights, linestyle="none", color=colour, marker=marker)
            if len(series) > 1:
                handles.append(Line2D([], [], color=colour, marker=marker, label=printable(label)))
        ax.set(xlim=(0, 1.01), ylim=(-0.02, 1.04), xlabel="τ, success rate wanted", ylabel="Cover@τ, share of problems")
        ax.set_xticks(SHARE_TICKS, labels=SHARE_LABELS)
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        if not drawn:
            empty_note(ax, "no problem was sampled")
        put_head(ax, handles, title=title)
    return ax
