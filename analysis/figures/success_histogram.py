"""Histogram of per-problem success rates, with the states shaded: below ε, between, mastered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from posttrain.analysis.figures.style import (
    INK,
    MUTED,
    PAPER,
    SERIES,
    VERMILION,
    empty_note,
    new_axes,
    paper,
    printable,
    remember,
    short_number,
)

_HATCHES = ("", "////", "....", "xxxx")
_ZONE_SHADES = (0.16, 0.0, 0.1)


def success_histogram(
    rates: Mapping[str, npt.ArrayLike],
    *,
    epsilon: float,
    mastered: float,
    rate_name: str = "success rate of a problem",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how many problems have which success rate.

    The bins are drawn equally wide and labelled by their edges, since the first one, up to ε, would be invisible to scale.

    Args:
        rates: Per run, [problems] success rates in [0, 1]; NaN where unknown (left out, and counted in the legend).
        epsilon: Rate under which a problem is out of support.
        mastered: Rate from which on it is mastered.
        rate_name: What the rates are.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: Not 0 < epsilon < mastered ≤ 1.
    """
    if not 0 < epsilon < mastered <= 1:
        raise ValueError(f"the thresholds must satisfy 0 < epsilon < mastered <= 1, got {epsilon} and {mastered}")
    edges = bin_edges(epsilon, mastered)
    num_bins = len(edges) - 1
    with paper():
        ax = ax or new_axes()
        width = 0.88 / max(1, len(rates))
        tallest, known_total = 0, 0
        for index, (label, values) in enumerate(rates.items()):
            all_values = np.asarray(values, dtype=np.float64)
            known = all_values[~np.isnan(all_values)]
            known_total += len(known)
            # A rate equal to an edge belongs to the bin above it: "at least" starts a state.
            counts = np.bincount(np.clip(np.searchsorted(edges, known, side="right") - 1, 0, num_bins - 1), minlength=num_bins)
            tallest = max(tallest, int(counts.max(initial=0)))
            lefts = np.arange(num_bins) + 0.06 + index * width
            colour = SERIES[index % len(SERIES)][0]
            bars = ax.bar(
                lefts,
                counts,
                width=width,
                align="edge",
                color=colour,
                edgecolor=PAPER,
                linewidth=0.6,
                hatch=_HATCHES[index % len(_HATCHES)],
                label=_legend_label(label, all_values),
            )
            ax.bar_label(bars, labels=[str(count) if count else "" for count in counts], fontsize=7.5, padding=1)
            remember(ax, _rows(label, edges, counts))
        _shade_zones(ax, edges, epsilon, mastered)
        ax.set_xticks(range(num_bins + 1), labels=[_edge_label(edge, epsilon) for edge in edges])
        ax.set(xlim=(0, num_bins), ylim=(0, max(1, tallest) * 1.12), xlabel=rate_name)
        ax.set_ylabel("problems" if len(rates) != 1 else _single_label(next(iter(rates.values()))))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if not known_total:
            empty_note(ax, "no problem has a success rate")
        elif len(rates) > 1:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.05), ncols=3, handlelength=1.4, columnspacing=1.4)
        if title:
            ax.set_title(printable(title), pad=32 if len(rates) > 1 else 18)
    return ax


def bin_edges(epsilon: float, mastered: float) -> npt.NDArray[np.float64]:
    """The edges of the bins: 0, ε, the tenths that stand clear of both thresholds, the mastered threshold, and 1."""
    tenths = [tenth / 10 for tenth in range(1, 10) if tenth / 10 > epsilon + 0.03 and tenth / 10 < mastered - 0.03]
    return np.array([0.0, epsilon, *tenths, mastered, *([] if mastered == 1 else [1.0])])


def _edge_label(edge: float, epsilon: float) -> str:
    text = short_number(float(edge), 2)
    return f"ε={text}" if edge == epsilon else text


def _legend_label(label: str, values: npt.NDArray[np.float64]) -> str:
    unknown = int(np.isnan(values).sum())
    return f"{printable(label)}, {len(values) - unknown} problems" + (f" ({unknown} more without a rate)" if unknown else "")


def _single_label(values: npt.ArrayLike) -> str:
    array = np.asarray(values, dtype=np.float64)
    unknown = int(np.isnan(array).sum())
    return f"problems (n = {len(array) - unknown})" + (f", {unknown} more without a rate" if unknown else "")


def _rows(label: str, edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {"run": label, "from": float(low), "to": float(high), "problems": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _shade_zones(ax: Axes, edges: npt.NDArray[np.float64], epsilon: float, mastered: float) -> None:
    start = int(np.searchsorted(edges, mastered))
    zones = ((0, 1, "< ε", VERMILION), (1, start, "between", INK), (start, len(edges) - 1, "mastered", SERIES[2][0]))
    for (left, right, words, colour), shade in zip(zones, _ZONE_SHADES, strict=True):
        if right > left:
            ax.axvspan(left, right, color=colour, alpha=shade, linewidth=0, zorder=0)
            last = right == len(edges) - 1
            ax.text(
                right if last else (left + right) / 2,
                1.015,
                words,
                transform=ax.get_xaxis_transform(),
                ha="right" if last else "center",
                va="bottom",
                fontsize=7.5,
            )
    for position in {1, start}:
        ax.axvline(position, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
