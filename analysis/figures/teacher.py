"""A teacher beside the student: success of both, and how likely each finds its own and the other's samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import MUTED, NOTE, SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import (
    Row,
    check_known,
    draw_interval,
    empty_note,
    name_rows,
    new_axes,
    paper,
    put_head,
    remember,
    wrapped,
)
from posttrain.analysis.number_format import number

SUCCESS, LIKELIHOOD = "success", "likelihood"
"""The two panels."""
MODELS = ("student", "teacher")
_PARTS = (0.22, 0.54)
"""Heights of the panels, from the top, as shares of the axes; between them stands the scale of the upper one."""
_SHIFT = 0.16
"""Distance of the two models from the middle of a row."""
_NAME_CHARS = 16
"""Most characters of a name on one line; longer ones stand on two."""


def teacher(rows: Sequence[Row], *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the success of both models, and below the log-probability per token that both give to each kind of samples.

    Read two contrasts in the lower panel: the teacher's marks on the student's right and wrong samples (apart where it can tell them),
    and the student's mark on the teacher's samples (far left where the student never writes so).

    Args:
        rows: `{"panel", "of", "under", "estimate", "low", "high", "n_problems"}`: the panel is `success` or `likelihood`, `under` is one of
            `MODELS`, and `of` names the samples.
        title: Title of the axes.
        ax: Where to draw; a new figure without one. Both panels are drawn inside of it.

    Returns:
        The axes around both panels.

    Raises:
        ValueError: A panel or a model is none of those.
    """
    for key, allowed in (("panel", (SUCCESS, LIKELIHOOD)), ("under", MODELS)):
        check_known(key, (row[key] for row in rows), allowed)
    with paper():
        ax = ax or new_axes(height=3.3)
        remember(ax, rows)
        ax.set_axis_off()
        if not rows:
            empty_note(ax, "no teacher was measured")
            put_head(ax, [], title=title)
            return ax
        upper = ax.inset_axes((0.0, 1.0 - _PARTS[0], 1.0, _PARTS[0]))
        lower = ax.inset_axes((0.0, 0.0, 1.0, _PARTS[1]))
        _draw_panel(upper, [row for row in rows if row["panel"] == SUCCESS])
        upper.set(xlim=(-0.02, 1.02), xlabel="success rate")
        upper.set_xticks(SHARE_TICKS, labels=SHARE_LABELS)
        _draw_panel(lower, [row for row in rows if row["panel"] == LIKELIHOOD])
        lower.set(xlabel="log-probability per token, nats")
        low, high = lower.get_xlim()
        lower.set_xlim(low, max(high, 0.02 * (high - low)))
        put_head(ax, _handles(), title=title)
    return ax


def _draw_panel(ax: Axes, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(str(row["of"]) for row in rows))
    for row in rows:
        model = MODELS.index(str(row["under"]))
        y = names.index(str(row["of"])) + _SHIFT * (2 * model - 1)
        colour, marker = SERIES[model]
        estimate, low, high = (number(row, key) for key in ("estimate", "low", "high"))
        if not math.isfinite(estimate):
            if model == 0:
                ax.annotate(
                    "no such samples",
                    (0.02, names.index(str(row["of"]))),
                    xycoords=ax.get_yaxis_transform(),
                    va="center",
                    fontsize=NOTE,
                    color=MUTED,
                )
            continue
        if math.isfinite(low) and math.isfinite(high):
            draw_interval(ax, low, high, y, color=colour, cap=0.1)
        ax.plot([estimate], [y], marker=marker, color=colour, zorder=3, clip_on=False)
    ax.set_yticks(range(len(names)), labels=[wrapped(name, _NAME_CHARS) for name in names], fontsize=NOTE)
    ax.set_ylim(max(1, len(names)) - 0.5, -0.5)
    name_rows(ax)


def _handles() -> list[Artist]:
    return [
        Line2D([], [], color=colour, marker=marker, label=model) for model, (colour, marker) in zip(MODELS, SERIES, strict=False)
    ]
