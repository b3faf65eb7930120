"""The common look of all figures: palette, text that the fonts can draw, and the numbers behind every axes.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; markers, line styles and hatches differ as well, so that
nothing is lost in greyscale. No pyplot: figures are plain objects, and nothing global is left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font

STYLE_FILE = Path(__file__).with_name("paper.mplstyle")

INK = "#1c2128"
MUTED = "#6a737d"
GRID = "#d8dee4"
PAPER = "#ffffff"
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#a8518a"
ORANGE = "#e69f00"

SERIES: tuple[tuple[str, str], ...] = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (INK, "P"))
"""Colour and marker of the first, second, ... series of a figure."""

Row = Mapping[str, Any]
"""One row of numbers, with the keys that `diagnosis.json` and `compare.json` use."""

_numbers: WeakKeyDictionary[Axes, list[dict[str, Any]]] = WeakKeyDictionary()
_SHOWN_CONTROLS = {"\n": "↵", "\t": "→", "\r": "␍", "\u00a0": " "}


@contextmanager
def paper() -> Iterator[None]:
    """Draw in the style of `paper.mplstyle`, whatever the user's own settings are, and put those back afterwards."""
    with matplotlib.rc_context(fname=STYLE_FILE):
        yield


def new_axes(width: float = 4.6, height: float = 3.0, *, rect: tuple[float, float, float, float] | None = None) -> Axes:
    """An axes in a figure of its own.

    Args:
        width: Inches.
        height: Inches.
        rect: Left, bottom, width and height of the axes as shares of the figure; laid out automatically without it.

    Returns:
        The axes; its figure has an Agg canvas.
    """
    figure = Figure(figsize=(width, height), layout="constrained" if rect is None else None)
    FigureCanvasAgg(figure)
    return figure.add_subplot() if rect is None else figure.add_axes(rect)


@cache
def _drawable(family: str) -> frozenset[int]:
    return frozenset(FT2Font(findfont(FontProperties(family=family))).get_charmap())


def printable(text: str, *, family: str = "DejaVu Sans", limit: int = 60) -> str:
    """The text as the figure's font can draw it: line breaks made visible, unknown signs as boxes, long texts cut.

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


def short_number(value: float, digits: int = 3) -> str:
    """A number for a tick or a label: significant digits, no zero before the point."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}g}"
    if "e" not in text and abs(value) < 1:
        text = text.replace("0.", ".", 1)
    return text.replace("-", "−")


def empty_note(ax: Axes, words: str) -> None:
    """Say in the middle of an axes why there is nothing to see."""
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=MUTED)


def remember(ax: Axes, rows: Sequence[Row]) -> None:
    """Keep the numbers that an axes shows, for the CSV that `save_figure` writes beside it."""
    _numbers.setdefault(ax, []).extend(dict(row) for row in rows)


def numbers_of(ax: Axes) -> list[dict[str, Any]]:
    """The numbers that an axes shows, one dict per row, in the order in which they were drawn."""
    return list(_numbers.get(ax, []))


def number(row: Row, key: str) -> float:
    """A number of a row; NaN where it is absent or null."""
    value = row.get(key)
    return math.nan if value is None else float(value)
