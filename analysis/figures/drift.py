"""What an earlier policy could do and this one cannot: success before and now, against how much likelier its right answers became."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from posttrain.analysis.figures.palette import BLUE, INK, MUTED, NOTE, PAPER, SHARE_LABELS, SHARE_TICKS, VERMILION
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number

_MANY = 60
"""Number of problems from which their lines are lighter, so that they do not cover the axes."""
_NEVER_SHARE = 0.16
"""Width of the strip for problems without an earlier right answer, as a share of the rest of the axes."""


def drift(rows: Sequence[Row], *, epsilon: float | None = None, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw each problem from its success before (hollow) to its success now (filled), placed by the change of likelihood of its right answers.

    To the left its earlier right answers became less likely. Left of the line at log ε an answer that one sample found before takes
    more than 1/ε samples now. Problems without an earlier right answer stand apart on the right; where none was scored at all, problems stand side by
    side in their order.

    Args:
        rows: `{"id", "p_before", "p_after", "change", "lost"}`: success rates, the mean change of the log-probability of the earlier right
            answers in nats (null where there is none), and whether a test finds that the rate fell. Rows without a rate are left out.
        epsilon: Success rate under which a problem is out of support; gives the line.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    known = [row for row in rows if math.isfinite(number(row, "p_before")) and math.isfinite(number(row, "p_after"))]
    with paper():
        ax = ax or new_axes()
        remember(ax, known)
        changes = [value for row in known if math.isfinite(value := number(row, "change"))]
        line = math.log(epsilon) if epsilon is not None and changes else None
        low, high = min([0.0, *changes, *([line] if line is not None else [])]), max([0.0, *changes])
        low, high = (low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else (low - 1.0, high + 1.0)
        without = len(known) - len(changes)
        if known and not changes:  # nothing but the strip
            low, high = 0.0, 0.0
        end = high + (_NEVER_SHARE * (high - low) or 1.0 if without else 0.0)
        # Side by side, in the order of the rows: in the strip a place means nothing.
        strip = iter(high + (end - high) * (index + 1) / (without + 1) for index in range(without))
        for row in known:
            change = number(row, "change")
            _draw_problem(ax, row, change if math.isfinite(change) else next(strip), faint=len(known) > _MANY)
        ax.set(xlim=(low, end), ylim=(-0.03, 1.03), ylabel="success rate")
        ax.set_xlabel("Δ log p of earlier right answers (nats)")
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        heads: list[tuple[float, str]] = []
        if line is not None:
            ax.axvline(line, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
            heads.append((line, "log ε"))
        if known and not changes:
            ax.set_xticks([])
            ax.set_xlabel("problems, in their order (no earlier right answer was scored)")
        elif without:
            ax.axvspan(high, end, color=INK, alpha=0.05, linewidth=0, zorder=0)
            heads.append(((high + end) / 2, "never right"))
            # A tick inside the strip would read as a change.
            ax.set_xticks([tick for tick in ax.get_xticks() if low <= tick <= high])
        for x, words in heads:
            ax.text(x, 1.01, words, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=NOTE, color=MUTED)
        if not known:
            empty_note(ax, "no problem was measured before and now")
        # Those words stand between axes and legend.
        put_head(ax, _handles(known), title=title, lift=0.08 if heads else 0.0)
    return ax


def _draw_problem(ax: Axes, row: Row, x: float, *, faint: bool) -> None:
    lost = bool(row.get("lost"))
    colour, marker = (VERMILION, "s") if lost else (BLUE, "o")
    before, after = number(row, "p_before"), number(row, "p_after")
    style = "-" if lost else (0, (2, 1.5))
    ax.plot([x, x], [before, after], color=colour, linewidth=1.0, linestyle=style, alpha=0.35 if faint else 0.8, zorder=2)
    size = 3.0 if faint else 4.5
    ax.plot([x], [before], marker=marker, color=colour, markerfacecolor=PAPER, markeredgewidth=1.0, markersize=size, zorder=3)
    ax.plot([x], [after], marker=marker, color=colour, markersize=size, zorder=4)


def _handles(rows: Sequence[Row]) -> list[Artist]:
    if not rows:
        return []
    handles: list[Artist] = [
        Line2D([], [], linestyle="none", color=INK, marker="o", markerfacecolor=PAPER, markeredgewidth=1.0, label="before"),
        Line2D([], [], linestyle="none", color=INK, marker="o", label="now"),
    ]
    lost = sum(bool(row.get("lost")) for row in rows)
    if lost:
        handles.append(Line2D([], [], color=VERMILION, marker="s", linewidth=1.0, label=f"fell: {lost}"))
    if len(rows) > lost:
        style = (0, (2, 1.5))
        handles.append(
            Line2D([], [], color=BLUE, marker="o", linewidth=1.0, linestyle=style, label=f"no fall shown: {len(rows) - lost}")
        )
    return handles
