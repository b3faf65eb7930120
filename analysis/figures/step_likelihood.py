"""How improbable each step of the reference paths is, over many paths."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from posttrain.analysis.figures.palette import BLUE, INK, MUTED, NOTE, PAPER, VERMILION
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number, short_number

_SHOWN = 0.005
"""Nats below which a step counts as certain."""
_FEW = 3
"""Bars up to which they are drawn narrower."""


def step_likelihood(
    rows: Sequence[Row],
    *,
    nats_at_epsilon: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the negative log-likelihood of each step; the least likely step is hatched.

    Args:
        rows: `{"step", "estimate", "low", "high", "n"}`: the step (counted from 1), its summed negative log-likelihood in nats
            with the middle 80 % of paths, and how many paths have such a step.
        nats_at_epsilon: −ln ε, drawn as a line: a step above it is less likely than ε.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    with paper():
        ax = ax or new_axes()
        known = [row for row in rows if math.isfinite(number(row, "estimate"))]
        remember(ax, known)
        worst = max((number(row, "estimate") for row in known), default=math.nan)
        top = nats_at_epsilon or 0.0
        for position, row in enumerate(known):
            value, low, high = (number(row, key) for key in ("estimate", "low", "high"))
            weakest = value == worst and len(known) > 1
            ax.bar(
                position,
                value,
                width=0.7,
                color=VERMILION if weakest else BLUE,
                hatch="////" if weakest else "",
                edgecolor=PAPER,
                linewidth=0,
            )
            if math.isfinite(low) and math.isfinite(high):
                ax.plot([position, position], [low, high], color=INK, linewidth=1.2)
            top = max(top, value, high if math.isfinite(high) else 0.0)
            if len(known) <= 12:
                words = short_number(value if value >= _SHOWN else 0.0, 2)
                ax.annotate(words, (position, value), (3, 2), textcoords="offset points", fontsize=NOTE)
        handles: list[Artist] = []
        if nats_at_epsilon is not None and known:
            handles.append(ax.axhline(nats_at_epsilon, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), label="as likely as ε"))
        if len(known) > 1:
            handles.append(Patch(facecolor=VERMILION, hatch="////", edgecolor=PAPER, linewidth=0, label="weakest step"))
        stride = math.ceil(len(known) / 12) if known else 1
        ax.set_xticks(
            range(0, len(known), stride),
            labels=[f"{row['step']}" + (f"\nn = {row['n']}" if row.get("n") is not None else "") for row in known[::stride]],
        )
        ax.set(
            ylim=(0, top * 1.15 or 1.0),
            xlabel="step of the reference path (n paths)",
            ylabel="nats (median, middle 80 % of paths)",
        )
        if len(known) < _FEW:
            # One bar as wide as the figure looks like a field.
            ax.set_xlim(-1, len(known))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
        if not known:
            empty_note(ax, "no reference path was scored")
        put_head(ax, handles, title=title)
    return ax
