"""How far the answers of a data set lie from what a policy says itself: nats per token against the least likely token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from posttrain.analysis.figures.palette import BLUE, INK, MUTED, ORANGE, PAPER, VERMILION
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, put_head, remember
from posttrain.analysis.number_format import number, short_number

OWN = "own"
AVOIDED = ("rejected", "bad")
"""Sides that are not to be imitated; they are drawn as one series."""
_LEAST = 1e-3
"""Nats that the axes begin with: what is more certain than that is certain."""


def data_reach(rows: Sequence[Row], *, epsilon: float | None = None, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw each answer of a data set by its nats per token and its least likely token, beside the policy's own answers.

    Above the line an answer holds a token that is out of support. Both axes are logarithmic, so that certain answers and absurd ones
    stand in one picture; what is more certain than .001 nats stands at the edge.

    Args:
        rows: `{"side", "nats_per_token", "worst", "inside", "limit"}`: the side is `own`, or what the answer is in the data (`completion`,
            `chosen`, `rejected`, `bad`); the worst is −log p of its least likely token, the limit that from which on it is out of support.
        epsilon: Probability under which a token is out of support by the behavior; drawn where the limit is another.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    known = [row for row in rows if math.isfinite(number(row, "nats_per_token")) and math.isfinite(number(row, "worst"))]
    with paper():
        ax = ax or new_axes()
        remember(ax, known)
        limits = [limit for row in known if math.isfinite(limit := number(row, "limit"))]
        handles = []
        for label, members, look in _series(known):
            points = [[max(_LEAST, number(row, key)) for row in members] for key in ("nats_per_token", "worst")]
            ax.plot(*points, linestyle="none", **look)
            handles.append(Line2D([], [], linestyle="none", **{**look, "alpha": 1.0}, label=f"{label}: {len(members)}"))
        if limits:
            dashes, words = (0, (4, 3)), "limit of support"
            handles.append(ax.axhline(limits[0], color=INK, linewidth=1.0, linestyle=dashes, label=words, zorder=1))
        if epsilon is not None and known and not (limits and math.isclose(-math.log(epsilon), limits[0], rel_tol=0.01)):
            height = -math.log(epsilon)
            handles.append(ax.axhline(height, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label="ε", zorder=1))
        ax.set(xscale="log", yscale="log", xlabel="nats per token", ylabel="least likely token (nats)")
        ax.grid(True, axis="both")
        ax.minorticks_off()
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        ax.margins(0.06)
        if not known:
            empty_note(ax, "no answer was scored")
        put_head(ax, handles, title=title)
    return ax


def _series(rows: Sequence[Row]) -> list[tuple[str, list[Row], dict[str, Any]]]:
    """Which answers are drawn alike, from the back to the front; empty ones are left out."""
    own = [row for row in rows if row.get("side") == OWN]
    avoided = [row for row in rows if row.get("side") in AVOIDED]
    learned = [row for row in rows if row.get("side") not in (OWN, *AVOIDED)]
    common: dict[str, Any] = {"markersize": 4.0, "alpha": 0.75, "clip_on": False}
    found: list[tuple[str, list[Row], dict[str, Any]]] = [
        ("own answers", own, {**common, "color": MUTED, "marker": "x", "markersize": 4.0, "zorder": 2}),
        ("rejected", avoided, {**common, "color": ORANGE, "marker": "v", "markerfacecolor": PAPER, "zorder": 3}),
        ("in support", [row for row in learned if row.get("inside")], {**common, "color": BLUE, "marker": "o", "zorder": 4}),
        (
            "out of support",
            [row for row in learned if not row.get("inside")],
            {**common, "color": VERMILION, "marker": "s", "zorder": 5},
        ),
    ]
    return [one for one in found if one[1]]
