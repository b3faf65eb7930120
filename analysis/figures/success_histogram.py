"""How many problems have which success rate: what was seen, and the fitted mixing distribution with its point masses at zero and one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from posttrain.analysis.figures.palette import HATCHES, INK, MUTED, NOTE, PAPER, SERIES, VERMILION
from posttrain.analysis.figures.style import Row, empty_note, new_axes, paper, printable, put_head, remember
from posttrain.analysis.number_format import number, short_number

_MASTERED_COLOUR = SERIES[2][0]
_ZONE_SHADES = (0.16, 0.0, 0.1)
_CLEAR = 0.03
"""How far from a threshold a tenth must lie to be an edge of its own."""
_BARS = 0.88
"""Share of a bin that its bars fill."""
_MASS_WIDTH = 1.8
"""Width of the places at the ends where point masses stand; a bin is 1 wide."""


def success_histogram(
    rates: Mapping[str, npt.ArrayLike],
    *,
    epsilon: float,
    mastered: float,
    mixture: Mapping[str, Sequence[Row]] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how many problems have which success rate.

    The bins are equally wide and labelled by their edges, since the first one, up to ε, would be invisible to scale. Where a
    mixture is given, a point with an interval over each bar says how many problems have such a rate by the fit, and two bins at the
    ends hold its point masses at exactly 0 and exactly 1 (which the outer bins hold too). What was seen in few samples is spread wider than
    the rates are, so bars and points need not agree.

    Args:
        rates: Per run, [problems] success rates in [0, 1]; NaN where unknown (left out, and counted in the label).
        epsilon: Rate under which a problem is out of support.
        mastered: Rate from which on it is mastered.
        mixture: Per run, `{"from", "to", "estimate", "low", "high"}` in numbers of problems, one row per bin of `bin_edges`, and rows
            with `from` equal to `to`, the point masses.
        title: Title of the axes.
        ax: Where to draw; a new figure without one.

    Returns:
        The axes.

    Raises:
        ValueError: Not 0 < epsilon < mastered ≤ 1.

    Source: mixtures over problems, arXiv 2510.05197.
    """
    if not 0 < epsilon < mastered <= 1:
        raise ValueError(f"the thresholds must satisfy 0 < epsilon < mastered <= 1, got {epsilon} and {mastered}")
    edges = bin_edges(epsilon, mastered)
    num_bins = len(edges) - 1
    masses = bool(mixture and any(mixture.values()))
    left, right = (-_MASS_WIDTH, num_bins + _MASS_WIDTH) if masses else (0.0, float(num_bins))
    with paper():
        ax = ax or new_axes()
        width = _BARS / max(1, len(rates))
        handles: list[Artist] = []
        tallest, known_total = 1.0, 0
        for index, (label, values) in enumerate(rates.items()):
            known = _known(values)
            known_total += len(known)
            # A rate equal to an edge belongs to the bin above it: "at least" starts a state.
            counts = np.bincount(np.clip(np.searchsorted(edges, known, side="right") - 1, 0, num_bins - 1), minlength=num_bins)
            lefts = np.arange(num_bins) + (1 - _BARS) / 2 + index * width
            colour, hatch = SERIES[index % len(SERIES)][0], HATCHES[index % len(HATCHES)]
            look: dict[str, Any] = {"facecolor": colour, "edgecolor": PAPER, "hatch": hatch}
            bars = ax.bar(lefts, counts, width=width, align="edge", linewidth=0.6, alpha=0.75 if masses else 1.0, **look)
            if not masses:
                ax.bar_label(bars, labels=[str(count) if count else "" for count in counts], fontsize=NOTE, padding=1)
            points = list((mixture or {}).get(label, ()))
            remember(ax, _rows(label, edges, counts, points))
            tallest = max(tallest, float(counts.max(initial=0)), _draw_mixture(ax, points, edges, index, len(rates)))
            if len(rates) > 1:
                handles.append(Patch(**look, label=_legend_label(label, values)))
            elif masses:
                handles.append(Patch(**look, alpha=0.75, label="seen (right / samples)"))
        if masses:
            marker: dict[str, Any] = {"marker": "o", "markerfacecolor": PAPER, "markersize": 4}
            handles.append(Line2D([], [], color=INK, label="fitted mixture, 95 %", **marker))
        _shade_zones(ax, edges, mastered, left, right)
        labels = [_edge_label(edge, epsilon, mastered, num_bins) for edge in edges]
        _label_bins(ax, labels, (left + _MASS_WIDTH / 2, right - _MASS_WIDTH / 2) if masses else None)
        ax.set(xlim=(left, right), ylim=(0, tallest * 1.12), xlabel=f"success rate of a problem (ε = {short_number(epsilon, 2)})")
        ax.set_ylabel("problems" if len(rates) != 1 else _single_label(next(iter(rates.values()))))
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if not known_total:
            empty_note(ax, "no problem has a success rate")
        # The names of the fields stand between axes and legend.
        put_head(ax, handles, title=title, lift=0.08)
    return ax


def _label_bins(ax: Axes, labels: Sequence[str], masses: tuple[float, float] | None) -> None:
    """Label the edges of the bins, and the places of the point masses where there are some."""
    if masses is None:
        ax.set_xticks(range(len(labels)), labels=labels)
    else:
        ax.set_xticks([masses[0], *range(len(labels)), masses[1]], labels=["= 0", *labels, "= 1"])


def bin_edges(epsilon: float, mastered: float) -> npt.NDArray[np.float64]:
    """Return the edges of the bins: 0, ε, the tenths that stand clear of both thresholds, the mastered threshold, and 1."""
    tenths = [tenth / 10 for tenth in range(1, 10) if epsilon + _CLEAR < tenth / 10 < mastered - _CLEAR]
    return np.array([0.0, epsilon, *tenths, mastered, *([] if mastered == 1 else [1.0])])


def _known(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[~np.isnan(array)]


def _edge_label(edge: float, epsilon: float, mastered: float, num_bins: int) -> str:
    if edge == epsilon:
        return "ε"
    # Every second tenth where there is no room for all.
    odd = round(edge * 10) % 2 == 1 and edge not in (mastered, 1.0)
    return "" if odd and num_bins > 8 else short_number(float(edge), 2)


def _legend_label(label: str, values: npt.ArrayLike) -> str:
    unknown = np.asarray(values, dtype=np.float64).size - len(_known(values))
    return f"{printable(label)}, {len(_known(values))} problems" + (f" ({unknown} more without a rate)" if unknown else "")


def _single_label(values: npt.ArrayLike) -> str:
    unknown = np.asarray(values, dtype=np.float64).size - len(_known(values))
    return f"problems (n = {len(_known(values))})" + (f", {unknown} more without a rate" if unknown else "")


def _rows(
    label: str, edges: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], points: Sequence[Row]
) -> list[dict[str, Any]]:
    fitted = {(number(row, "from"), number(row, "to")): row for row in points}
    rows: list[dict[str, Any]] = [
        {"run": label, "from": float(low), "to": float(high), "problems": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    rows += [{"run": label, "from": place[0], "to": place[1], "problems": None} for place in fitted if place[0] == place[1]]
    for row in rows:
        found = fitted.get((row["from"], row["to"]))
        if found is not None:
            row.update({f"mixture_{key}": found[key] for key in ("estimate", "low", "high")})
    return rows


def _draw_mixture(ax: Axes, points: Sequence[Row], edges: npt.NDArray[np.float64], index: int, num_runs: int) -> float:
    """Draw the points of one run; gives the highest of them."""
    top = 0.0
    for row in points:
        start, end = number(row, "from"), number(row, "to")
        value, low, high = (number(row, key) for key in ("estimate", "low", "high"))
        if math.isnan(low) and math.isnan(value):
            continue
        if start == end:
            bin_start = -(1 + _MASS_WIDTH) / 2 if start == 0 else len(edges) - 1 + (_MASS_WIDTH - 1) / 2
        else:
            bin_start = float(np.argmin(np.abs(edges - start)))
        x = bin_start + (1 - _BARS) / 2 + (index + 0.5) * _BARS / num_runs
        ax.plot([x, x], [low, high], color=INK, linewidth=1.0, marker="_", markersize=4, zorder=3)
        marker, colour = ("o", INK) if num_runs == 1 else (SERIES[index % len(SERIES)][1], SERIES[index % len(SERIES)][0])
        ax.plot([x], [value], marker=marker, color=colour, markerfacecolor=PAPER, markersize=4, zorder=4)
        top = max([top, *(bound for bound in (value, high) if math.isfinite(bound))])
    return top


def _shade_zones(ax: Axes, edges: npt.NDArray[np.float64], mastered: float, left: float, right: float) -> None:
    start = int(np.searchsorted(edges, mastered))
    zones = ((left, 1, "below ε", VERMILION), (1, start, "between", INK), (start, right, "mastered", _MASTERED_COLOUR))
    for (begin, end, words, colour), shade in zip(zones, _ZONE_SHADES, strict=True):
        if end > begin:
            ax.axvspan(begin, end, color=colour, alpha=shade, linewidth=0, zorder=0)
            place = {left: ("left", begin), right: ("right", end)}.get(
                begin if begin == left else end, ("center", (begin + end) / 2)
            )
            ax.text(place[1], 1.01, words, transform=ax.get_xaxis_transform(), ha=place[0], va="bottom", fontsize=NOTE)
    for position in {1, start}:
        ax.axvline(position, color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
