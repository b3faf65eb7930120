"""pass@k against k: how much more is reached with more samples, and where two curves cross."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.palette import INK, MUTED, NOTE, PAPER, SERIES, SHARE_LABELS, SHARE_TICKS
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, printable, put_head, remember
from posttrain.analysis.number_format import number, short_number

_DASHES = (0, (4, 2))
_CROSSING_DASHES = (0, (6, 2, 1, 2))
_NOTE_HEIGHTS = {True: 0.03, False: 0.97}
"""Where the words about a crossing stand, by whether the curves lie in the upper half."""
_MOST_TICKS = 8
_BAND = {True: 0.08, False: 0.18}
"""Opacity of the band, by whether it is extrapolated."""


def pass_at_k(
    series: Mapping[str, Sequence[Row]],
    *,
    primary_k: int | None = None,
    crossing: Row | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw pass@k curves with their intervals; what is extrapolated is dashed, with hollow markers.

    Args:
        series: Per run (`before`, `after`, ...) the points `{"k", "estimate", "low", "high", "extrapolated"}` as in
            `diagnosis.json`. A point with bounds and no estimate shows in the band alone; one with neither is left out.
        primary_k: The k chosen in advance; marked by a dotted line where the curves reach it.
        crossing: `{"k", "k_low", "k_high", "probability"}`: the k from which on the second curve lies below the first, its interval,
            and the share of draws with a crossing. Marked by a line, its interval by a shaded field.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Source: arXiv 2107.03374; crossing curves, arXiv 2504.13837.
    """
    with paper():
        ax = ax or new_axes()
        ks: set[int] = set()
        handles: list[Artist] = []
        any_extrapolated = False
        for index, (label, points) in enumerate(series.items()):
            colour, marker = SERIES[index % len(SERIES)]
            known = sorted((row for row in points if _is_known(row)), key=lambda row: int(row["k"]))
            remember(ax, [{"run": label, **row} for row in known])
            ks.update(int(row["k"]) for row in known)
            any_extrapolated |= _draw_run(ax, known, colour, marker, _marker_size(index))
            if len(series) > 1:
                handles.append(Line2D([], [], color=colour, marker=marker, label=printable(label)))
        ax.set(ylim=(-0.02, 1.04), xlabel="k, samples per problem", ylabel="pass@k")
        ax.set_yticks(SHARE_TICKS, labels=SHARE_LABELS)
        if not ks:
            # Without a point there is nothing whose logarithm could scale the axis.
            ax.set_xticks([1], labels=["1"])
            empty_note(ax, "no pass@k is defined")
        else:
            ax.set_xscale("log", base=2)
            _label_ks(ax, sorted(ks))
            if any_extrapolated:
                if len(series) == 1:
                    handles.append(Line2D([], [], color=SERIES[0][0], marker=SERIES[0][1], label="observed"))
                colour = INK if len(series) > 1 else SERIES[0][0]
                handles.append(
                    Line2D([], [], color=colour, linestyle=_DASHES, marker="o", markerfacecolor=PAPER, label="extrapolated")
                )
            if primary_k is not None and min(ks) <= primary_k <= max(ks):
                handles.append(
                    ax.axvline(primary_k, color=MUTED, linewidth=1.0, linestyle=":", zorder=0, label=f"primary k = {primary_k}")
                )
            heights = [number(row, "estimate") for points in series.values() for row in points]
            known_heights = [height for height in heights if math.isfinite(height)] or [0.0]
            middle = sum(known_heights) / len(known_heights)
            handles += _draw_crossing(ax, crossing, sorted(ks), crowded_above=middle > 0.5)
        put_head(ax, handles, title=title)
    return ax


def _is_known(row: Row) -> bool:
    return math.isfinite(number(row, "estimate")) or all(math.isfinite(number(row, key)) for key in ("low", "high"))


def _draw_run(ax: Axes, points: Sequence[Row], colour: str, marker: str, size: float) -> bool:
    """Draw one run; says whether a part of it is extrapolated."""
    observed = [row for row in points if not row.get("extrapolated", False)]
    beyond = [row for row in points if row.get("extrapolated", False)]
    joined = [*observed[-1:], *beyond] if beyond else []
    for part, extrapolated in ((observed, False), (joined, True)):
        xs = [int(row["k"]) for row in part]
        ax.plot(xs, [number(row, "estimate") for row in part], color=colour, linestyle=_DASHES if extrapolated else "-")
        ends = ([number(row, "low") for row in part], [number(row, "high") for row in part])
        ax.fill_between(xs, *ends, color=colour, alpha=_BAND[extrapolated], linewidth=0)
    for part, face in ((observed, colour), (beyond, PAPER)):
        for row in part:
            if len(points) == 1 and not math.isnan(number(row, "low")):
                ax.plot([row["k"]] * 2, [number(row, "low"), number(row, "high")], color=colour, linewidth=1)
        ax.plot(
            [int(row["k"]) for row in part],
            [number(row, "estimate") for row in part],
            linestyle="none",
            marker=marker,
            markersize=size,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=1.1,
        )
    return bool(beyond)


def _marker_size(index: int) -> float:
    """Points; smaller from run to run, so that a curve under another one is seen."""
    return max(3.5, 5.5 - 0.6 * index)


def _draw_crossing(ax: Axes, crossing: Row | None, ks: Sequence[int], *, crowded_above: bool) -> list[Artist]:
    if crossing is None or math.isnan(number(crossing, "k")):
        return []
    remember(ax, [{"run": "crossing", **crossing}])
    k, low, high = (number(crossing, key) for key in ("k", "k_low", "k_high"))
    words = f"k = {short_number(k, 2)}"
    if math.isfinite(low) and math.isfinite(high):
        ax.axvspan(max(low, ks[0]), min(high, ks[-1]), facecolor=INK, alpha=0.08, linewidth=0, zorder=0)
        words += f" [{short_number(low, 2)}, {short_number(high, 2)}]"
    ax.axvline(k, color=INK, linewidth=1.0, linestyle=_CROSSING_DASHES, zorder=1)
    right = math.log(k / ks[0]) > 0.5 * math.log(ks[-1] / ks[0])
    ax.annotate(
        words,
        (k, _NOTE_HEIGHTS[crowded_above]),
        (-3 if right else 3, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        fontsize=NOTE,
        bbox={"facecolor": PAPER, "alpha": 0.8, "linewidth": 0, "pad": 0.8},
    )
    return [Line2D([], [], color=INK, linewidth=1.0, linestyle=_CROSSING_DASHES, label="crossing, 95 %")]


def _label_ks(ax: Axes, ks: list[int]) -> None:
    stride = math.ceil(len(ks) / _MOST_TICKS)
    shown = ks[::stride]
    ax.set_xticks(shown, labels=[f"{k:,}".replace(",", " ") for k in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlim(ks[0] / 1.15, ks[-1] * 1.15)
