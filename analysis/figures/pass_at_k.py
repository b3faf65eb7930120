"""pass@k against k: how much more is reached when more samples are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from posttrain.analysis.figures.style import (
    INK,
    MUTED,
    PAPER,
    SERIES,
    Row,
    empty_note,
    new_axes,
    number,
    paper,
    printable,
    remember,
)


def pass_at_k(
    series: Mapping[str, Sequence[Row]],
    *,
    primary_k: int | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw pass@k curves with their intervals; what is extrapolated is dashed, with hollow markers.

    Args:
        series: Per run (`before`, `after`, ...) the points `{"k", "estimate", "low", "high", "extrapolated"}` as in
            `diagnosis.json`. Points without an estimate are left out.
        primary_k: The k chosen in advance; marked by a vertical line.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.
    """
    with paper():
        ax = ax or new_axes()
        ks: set[int] = set()
        any_extrapolated = False
        for index, (label, points) in enumerate(series.items()):
            colour, marker = SERIES[index % len(SERIES)]
            known = sorted((row for row in points if not math.isnan(number(row, "estimate"))), key=lambda row: int(row["k"]))
            remember(ax, [{"run": label, **row} for row in known])
            ks.update(int(row["k"]) for row in known)
            any_extrapolated |= _draw_run(ax, known, colour, marker, printable(label))
        if ks:
            # Without a point there is nothing whose logarithm could scale the axis.
            ax.set_xscale("log", base=2)
        ax.set(ylim=(-0.02, 1.04), xlabel="k, samples per problem", ylabel="pass@k")
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], labels=["0", ".25", ".5", ".75", "1"])
        if not ks:
            ax.set_xticks([1], labels=["1"])
            empty_note(ax, "no pass@k is defined")
        else:
            _label_ks(ax, sorted(ks))
            _add_legend(ax, any_extrapolated, len(series))
        if primary_k is not None and ks:
            ax.axvline(primary_k, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)
            ax.annotate(
                f"primary k = {primary_k}",
                (primary_k, 1.04),
                (3, -1),
                xycoords="data",
                textcoords="offset points",
                fontsize=7.5,
                color=MUTED,
                va="top",
            )
        if title:
            ax.set_title(printable(title))
    return ax


def _draw_run(ax: Axes, points: Sequence[Row], colour: str, marker: str, label: str) -> bool:
    """Draw one run; says whether a part of it is extrapolated."""
    observed = [row for row in points if not row.get("extrapolated", False)]
    beyond = [row for row in points if row.get("extrapolated", False)]
    joined = [*observed[-1:], *beyond] if beyond else []
    for part, style, strength in ((observed, "-", 0.2), (joined, (0, (4, 2)), 0.1)):
        xs = [int(row["k"]) for row in part]
        ax.plot(xs, [number(row, "estimate") for row in part], color=colour, linestyle=style)
        ax.fill_between(
            xs,
            [number(row, "low") for row in part],
            [number(row, "high") for row in part],
            color=colour,
            alpha=strength,
            linewidth=0,
        )
    for part, face in ((observed, colour), (beyond, PAPER)):
        for row in part:
            if len(points) == 1 and not math.isnan(number(row, "low")):
                ax.plot([row["k"]] * 2, [number(row, "low"), number(row, "high")], color=colour, linewidth=1)
        ax.plot(
            [int(row["k"]) for row in part],
            [number(row, "estimate") for row in part],
            linestyle="none",
            marker=marker,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=1.2,
        )
    ax.plot([], [], color=colour, marker=marker, label=label)
    return bool(beyond)


def _label_ks(ax: Axes, ks: list[int]) -> None:
    step = math.ceil(len(ks) / 8)
    shown = ks[::step]
    ax.set_xticks(shown, labels=[f"{k:,}".replace(",", " ") for k in shown])
    ax.set_xticks([], minor=True)
    ax.set_xlim(ks[0] / 1.15, ks[-1] * 1.15)


def _add_legend(ax: Axes, any_extrapolated: bool, num_runs: int) -> None:
    handles = list(ax.get_legend_handles_labels()[0]) if num_runs > 1 else []
    if any_extrapolated:
        handles.append(Line2D([], [], color=INK, linestyle=(0, (4, 2)), marker="o", markerfacecolor=PAPER, label="extrapolated"))
        if num_runs == 1:
            handles.insert(0, Line2D([], [], color=INK, marker="o", label="observed"))
    if handles:
        ax.legend(handles=handles, loc="best")
