"""The common look of all figures: legends, text that the fonts can draw, and the numbers behind every axes.

No pyplot: figures are plain objects, and nothing global is left behind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from posttrain.analysis.figures.palette import MUTED, PAPER

STYLE_FILE = Path(__file__).with_name("paper.mplstyle")

_AXES_SHARE = 0.775
"""Share of its cell that an axes has before it is laid out: matplotlib's own default."""
LABEL_POINTS = 40.0
"""What the labels of a y axis take, points."""
REPORT_WIDTH = 4.6
"""Width of a figure without a width of its own, inches."""

Row = Mapping[str, Any]
"""One row of numbers, with the keys that `diagnosis.json` and `compare.json` use."""

Look = tuple[str, str, bool]
"""Colour and marker of a series, and whether the marker is filled."""

_numbers: WeakKeyDictionary[Axes, list[dict[str, Any]]] = WeakKeyDictionary()
_SHOWN_CONTROLS = {"\n": "↵", "\t": "→", "\r": "␍", "\u00a0": " "}


@contextmanager
def paper() -> Iterator[None]:
    """Draw in the style of `paper.mplstyle`, whatever the user's own settings are, and put those back afterwards."""
    with matplotlib.rc_context(fname=STYLE_FILE):
        yield


def new_axes(width: float = REPORT_WIDTH, height: float = 3.0) -> Axes:
    """Return an axes in a figure of its own, laid out so that no label is cut.

    Args:
        width: Inches.
        height: Inches.

    Returns:
        The axes; its figure has an Agg canvas.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def put_head(
    ax: Axes, handles: Sequence[Artist], *, title: str | None = None, lift: float = 0.0, labels: float = LABEL_POINTS
) -> None:
    """Put the legend above the axes, where it hides nothing, and the title above the legend.

    Args:
        ax: The axes.
        handles: Labelled marks; none gives no legend.
        title: Title of the axes.
        lift: Room left between axes and head, as a share of the height of the axes.
        labels: Points that the labels of the y axis take.
    """
    words = printable(title) if title else None
    if not handles:
        if words:
            ax.set_title(words, y=1.0 + lift)
        return
    # Labels of the y axis take their part of the cell that the layout gives to the axes, and nothing that is right of it.
    cell = ax.get_window_extent().width * 72 / dots_per_inch(ax) / _AXES_SHARE
    ax.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0 + lift),
        ncols=legend_columns([str(handle.get_label()) for handle in handles], cell - labels),
        title=words,
        title_fontproperties={"weight": "bold", "size": matplotlib.rcParams["axes.titlesize"]},
        alignment="left",
    )


def legend_mark(look: Look, label: str, **options: Any) -> Line2D:
    """Return an entry of a legend; `options` are those of `Line2D`."""
    colour, marker, filled = look
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=colour if filled else PAPER, label=label, **options)


def legend_columns(labels: Sequence[str], points: float) -> int:
    """How many columns of a legend fit into a width.

    Args:
        labels: Texts of its entries.
        points: The width.

    Returns:
        At least 1, at most the number of labels, and no more than the number of rows needs.
    """
    size = matplotlib.rcParams["legend.fontsize"]
    handle = size * (matplotlib.rcParams["legend.handlelength"] + matplotlib.rcParams["legend.handletextpad"])
    entries = [handle + text_points(label, size) for label in labels]
    for columns in range(len(labels), 1, -1):
        rows = math.ceil(len(labels) / columns)
        # Entries fill column after column, the first ones being longer by one where they do not come out even.
        longer = len(labels) - columns * (rows - 1)
        starts = [index * rows - max(0, index - longer) for index in range(columns + 1)]
        widths = [max(entries[start:end], default=0.0) for start, end in pairwise(starts)]
        if sum(widths) + size * matplotlib.rcParams["legend.columnspacing"] * (columns - 1) <= points:
            return math.ceil(len(labels) / rows)
    return 1


def text_points(text: str, size: float) -> float:
    """Width of a line of text in the figures' font, points."""
    font = FontProperties(family=matplotlib.rcParams["font.family"], size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


def wrapped(name: str, chars: int, lines: int = 2) -> str:
    """Return a name on at most `lines` lines of at most `chars` characters, broken after spaces, underscores and dashes."""
    parts = re.findall(r"[^ _-]*[ _-]*", printable(name, limit=chars * lines))
    found = [""]
    for part in parts:
        if found[-1] and len(found[-1]) + len(part.rstrip()) > chars and len(found) < lines:
            found.append("")
        found[-1] += part
    return "\n".join(line.strip() for line in found)


def dots_per_inch(ax: Axes) -> float:
    """Of the figure that an axes belongs to."""
    figure = ax.get_figure(root=True)
    assert figure is not None, "the axes was removed from its figure"
    return figure.dpi


@cache
def _drawable(family: str) -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=family))).get_charmap())


def printable(text: str, *, family: str = "DejaVu Sans", limit: int = 60) -> str:
    """Return the text as the figure's font can draw it: line breaks made visible, unknown signs as boxes, long texts cut.

    Args:
        text: Any text, a model's included.
        family: The font.
        limit: Most characters to keep.

    Returns:
        One line without control characters.
    """
    known = _drawable(family)
    signs = (_SHOWN_CONTROLS.get(sign, sign) for sign in text[: limit + 1])
    line = "".join(sign if ord(sign) in known and (sign.isprintable() or sign == " ") else "□" for sign in signs)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def empty_note(ax: Axes, words: str) -> None:
    """Say in the middle of an axes why there is nothing to see."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=MUTED)


def remember(ax: Axes, rows: Sequence[Row]) -> None:
    """Keep the numbers that an axes shows, for the CSV that `save_figure` writes beside it."""
    _numbers.setdefault(ax, []).extend(dict(row) for row in rows)


def numbers_of(ax: Axes) -> list[dict[str, Any]]:
    """Return the numbers that an axes shows, one dict per row, in the order in which they were added."""
    return list(_numbers.get(ax, []))


def check_known(what: str, found: Iterable[str], allowed: Collection[str]) -> None:
    """Refuse words that a figure has no look for.

    Raises:
        ValueError: One is not allowed.
    """
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise ValueError(f"unknown {what} {unknown[0]!r}; allowed are {', '.join(allowed)}")


def name_rows(ax: Axes) -> None:
    """Show the rows of a figure by their names alone: no tick and no line along them."""
    ax.tick_params(axis="y", length=0)
    ax.grid(True, axis="x")
    ax.grid(False, axis="y")


def draw_interval(ax: Axes, low: float, high: float, y: float, *, color: str, cap: float) -> None:
    """Draw a horizontal interval with end caps that reach `cap` to either side."""
    ax.plot([low, high], [y, y], color=color, linewidth=1.6, zorder=2, solid_capstyle="butt")
    for end in (low, high):
        ax.plot([end, end], [y - cap, y + cap], color=color, linewidth=1.1, zorder=2)


def draw_mark(ax: Axes, x: float, y: float, look: Look, *, edges: tuple[float, float], rim: str, **options: Any) -> None:
    """Draw one marker; `edges` are the widths of its edge where it is filled, in the colour `rim`, and where it is not, in its own."""
    colour, marker, filled = look
    face, edge, width = (colour, rim, edges[0]) if filled else (PAPER, colour, edges[1])
    place: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": edge, "markeredgewidth": width}
    ax.plot([x], [y], marker=marker, color=colour, **place, **options)
