"""Where problems went: in support before and after, as bands from left to right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Polygon, Rectangle

from posttrain.analysis.figures.before_after import CHANGES
from posttrain.analysis.figures.palette import INK, MUTED, NOTE, PAPER
from posttrain.analysis.figures.style import check_known, empty_note, new_axes, paper, put_head, remember

_PLACES: dict[str, tuple[str, str]] = {
    "preserved": ("in support", "in support"),
    "attrited": ("in support", "out of support"),
    "expanded": ("out of support", "in support"),
    "out_of_support": ("out of support", "out of support"),
    "undetermined": ("undetermined", "undetermined"),
}
"""Where the problems of a state are before and after, in the order in which bands lie upon one another."""
_HATCHES = {"preserved": "", "attrited": "\\\\\\\\", "expanded": "////", "out_of_support": "----", "undetermined": "xx"}
_OPACITY = 0.55
_BAR = 0.05
"""Width of the bars at either end; the whole is 1 wide."""
_GAP = 0.04
"""Between bars, as a share of all problems."""
_READABLE = 0.08
"""Share of all problems from which on a band has room for its number."""


def support_transitions(counts: Mapping[str, int], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how many problems kept, gained and lost support, as bands whose height is their number.

    Args:
        counts: Per state of `compare.json`, how many problems are in it.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: A state is unknown.

    Source: support dynamics, arXiv 2507.14843.
    """
    check_known("state", counts, CHANGES)
    total = sum(counts.values())
    with paper():
        ax = ax or new_axes(4.6, 2.6)
        remember(ax, [{"state": state, "problems": int(counts.get(state, 0))} for state in CHANGES])
        ax.axis("off")
        ax.set(xlim=(-0.3, 1.3), ylim=(1 + 2 * _GAP, -0.12))
        for x, words in ((0.0, "before"), (1.0, "after")):
            ax.text(x, -0.03, words, ha="center", va="bottom", weight="bold")
        if not total:
            empty_note(ax, "no problem was measured in both runs")
        else:
            shares = {state: counts.get(state, 0) / total for state in _PLACES}
            starts = [_stack(ax, shares, counts, side) for side in (0, 1)]
            for state, share in shares.items():
                if share:
                    _draw_band(ax, state, starts[0][state], starts[1][state], share, counts[state])
        handles = [
            Patch(
                facecolor=CHANGES[state][0],
                alpha=_OPACITY,
                hatch=_HATCHES[state],
                edgecolor=PAPER,
                label=f"{state.replace('_', ' ')}: {counts.get(state, 0)}",
            )
            for state in CHANGES
        ]
        put_head(ax, handles, title=title)
    return ax


def _stack(ax: Axes, shares: Mapping[str, float], counts: Mapping[str, int], side: int) -> dict[str, float]:
    """Draw the bars of one side; gives where each band starts."""
    starts: dict[str, float] = {}
    y = 0.0
    for place in dict.fromkeys(ends[side] for ends in _PLACES.values()):
        states = [state for state, ends in _PLACES.items() if ends[side] == place]
        top = y
        for state in states:
            starts[state] = y
            y += shares[state]
        if y > top:
            ax.add_patch(Rectangle((side - _BAR / 2, top), _BAR, y - top, facecolor=INK, linewidth=0))
            words = f"{place}\n{sum(counts.get(state, 0) for state in states)}"
            shift = (1 if side else -1) * (_BAR / 2 + 0.02)
            ax.text(side + shift, (top + y) / 2, words, ha="left" if side else "right", va="center", fontsize=NOTE)
            y += _GAP
    return starts


def _draw_band(ax: Axes, state: str, left: float, right: float, share: float, count: int) -> None:
    x = np.linspace(0.0, 1.0, 60)
    bend = x * x * (3 - 2 * x)
    top = left + (right - left) * bend
    inner = _BAR / 2 + x * (1 - _BAR)
    outline = np.concatenate([np.stack([inner, top], axis=1), np.stack([inner, top + share], axis=1)[::-1]])
    colour, hatch = CHANGES[state][0], _HATCHES[state]
    ax.add_patch(Polygon(outline, alpha=_OPACITY, linewidth=0, facecolor=colour, hatch=hatch, edgecolor=PAPER))
    if share < _READABLE:
        # A band of one problem in hundreds would be thinner than a line.
        ax.plot(inner, top + share / 2, color=CHANGES[state][0], linewidth=0.8, zorder=0)
    else:
        # The two that may cross are named left and right of the crossing.
        at = {"expanded": 0.3, "attrited": 0.7}.get(state, 0.5)
        place = (_BAR / 2 + at * (1 - _BAR), left + (right - left) * at * at * (3 - 2 * at) + share / 2)
        box = {"facecolor": PAPER, "edgecolor": MUTED, "linewidth": 0.4, "boxstyle": "round,pad=0.2"}
        ax.text(*place, f"{state.replace('_', ' ')} {count}", ha="center", va="center", fontsize=NOTE, color=INK, bbox=box)
