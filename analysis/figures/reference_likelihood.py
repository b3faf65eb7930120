"""One reference path, token by token: how probable the model finds each token, and which step is the weakest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from posttrain.analysis.figures.palette import INK, MUTED, NOTE, VERMILION
from posttrain.analysis.figures.style import REPORT_WIDTH, dots_per_inch, empty_note, paper, printable, remember
from posttrain.analysis.number_format import short_number

SHADES: tuple[tuple[float, str, str, str], ...] = (
    (0.5, "#f4f1e4", "#111111", "p ≥ 0.5"),
    (0.1, "#d9cfa0", "#111111", "≥ 0.1"),
    (0.01, "#c89b5a", "#111111", "≥ 0.01"),
    (0.001, "#96512f", "#fdfdfd", "≥ 0.001"),
    (0.0, "#4a1d26", "#fdfdfd", "less"),
)
"""Smallest probability, fill, text colour and legend of each shade: darker is less probable, in greyscale too."""

_MONO = "DejaVu Sans Mono"
_FONT_POINTS = 8.5
_CHAR_INCHES = _FONT_POINTS * 0.602 / 72
_LABEL_CHARS = 11.0
_ROW_INCHES = 0.43
_FOOT_ROWS = 0.8
_HEAD_ROWS = 0.42
"""Rows that the title, and the note on what is hidden, take each."""
_ROUND_FROM = 10.0
"""Nats from which on they are written without decimals."""
MOST_ROWS = 12
"""Of tokens."""


@dataclass(frozen=True)
class _Line:
    """Tokens of one step that stand in one row."""

    step: int
    tokens: tuple[int, ...]


def reference_likelihood(
    tokens: Sequence[str],
    logprobs: npt.ArrayLike,
    *,
    steps: Sequence[int] | None = None,
    weakest_step: int | None = None,
    width: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a path as a strip of tokens, each step on rows of its own, darker where the model finds a token less probable.

    Under each token stands its probability; beside each step its summed negative log-likelihood in nats. Paths that need more
    than `MOST_ROWS` rows are shown around their weakest token, and the figure says so.

    Args:
        tokens: [T] texts of the tokens.
        logprobs: [T] natural log-probabilities under the policy.
        steps: [T] index of the step of each token, from 0; one step without it.
        weakest_step: The step to mark; the one with the lowest summed log-probability without it.
        width: Inches that the axes will have; without it those that it has now.
        title: Title of the axes.
        ax: Where to draw; a new figure of fitting height without one.

    Returns:
        The axes.

    Raises:
        ValueError: The lengths disagree.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    owner = [0] * len(tokens) if steps is None else [int(step) for step in steps]
    if not len(tokens) == len(values) == len(owner):
        raise ValueError(
            f"got {len(tokens)} tokens, {len(values)} log-probabilities and {len(owner)} step indices; they must agree"
        )
    sums = {step: float(sum(values[i] for i in range(len(values)) if owner[i] == step)) for step in dict.fromkeys(owner)}
    if weakest_step is None and sums:
        weakest_step = min(sums, key=lambda step: sums[step])
    shown = _shown(tokens)
    with paper():
        if width is None:
            width = REPORT_WIDTH if ax is None else ax.get_window_extent().width / dots_per_inch(ax)
        chars = _chars(width)
        lines = _wrap(shown, owner, chars - _LABEL_CHARS)
        first, last = _window(lines, values, weakest_step)
        num_rows = max(1, last - first)
        hidden = "" if last - first == len(lines) else f"rows {first + 1}–{last} of {len(lines)}, around the weakest step"
        head = _HEAD_ROWS * (bool(title) + bool(hidden)) + 0.1
        if ax is None:
            figure = Figure(figsize=(width, (num_rows + head + _FOOT_ROWS) * _ROW_INCHES))
            FigureCanvasAgg(figure)
            ax = figure.add_axes((0.015, 0.0, 0.97, 1.0))
        ax.set(xlim=(0, chars), ylim=(num_rows + _FOOT_ROWS, -head))
        ax.axis("off")
        remember(
            ax,
            [
                {"token": token, "step": step + 1, "logprob": float(value)}
                for token, step, value in zip(tokens, owner, values, strict=True)
            ],
        )
        if not lines:
            empty_note(ax, "no reference path was scored")
            return ax
        for row, line in enumerate(lines[first:last]):
            _draw_line(ax, row, line, shown, values)
            if row == 0 or lines[first + row - 1].step != line.step:
                _draw_label(ax, row, line.step, sums[line.step], len(sums) > 1 and line.step == weakest_step)
        _frame(ax, lines[first:last], weakest_step, chars)
        if title:
            ax.text(0, -head + 0.06, printable(title), weight="bold", fontsize=_FONT_POINTS, va="top")
        if hidden:
            ax.text(0, -0.1, hidden, fontsize=NOTE, va="bottom", color=MUTED)
        _draw_legend(ax, num_rows)
    return ax


def strip_height(tokens: Sequence[str], steps: Sequence[int], width: float) -> float:
    """Inches that a strip of these tokens needs at a width in inches, its title and a note included."""
    num_rows = min(MOST_ROWS, len(_wrap(_shown(tokens), list(steps), _chars(width) - _LABEL_CHARS)))
    return (max(1, num_rows) + 2 * _HEAD_ROWS + 0.1 + _FOOT_ROWS) * _ROW_INCHES


def _shown(tokens: Sequence[str]) -> list[str]:
    return [printable(token, family=_MONO, limit=22) or "∅" for token in tokens]


def _chars(width: float) -> float:
    return max(24.0, width * 0.97 / _CHAR_INCHES)


def _cell_chars(text: str) -> float:
    return max(len(text), 3) + 0.5


def _wrap(shown: Sequence[str], owner: Sequence[int], width: float) -> list[_Line]:
    lines: list[_Line] = []
    current: list[int] = []
    used = 0.0
    for index, text in enumerate(shown):
        cell = _cell_chars(text)
        if current and (used + cell > width or owner[index] != owner[current[-1]]):
            lines.append(_Line(owner[current[-1]], tuple(current)))
            current, used = [], 0.0
        current.append(index)
        used += cell
    if current:
        lines.append(_Line(owner[current[-1]], tuple(current)))
    return lines


def _window(lines: Sequence[_Line], values: npt.NDArray[np.float64], weakest: int | None) -> tuple[int, int]:
    if len(lines) <= MOST_ROWS:
        return 0, len(lines)
    of_weakest = [index for index, line in enumerate(lines) if line.step == weakest] or list(range(len(lines)))
    centre = min(of_weakest, key=lambda index: min(values[token] for token in lines[index].tokens))
    first = min(max(0, centre - MOST_ROWS // 2), len(lines) - MOST_ROWS)
    return first, first + MOST_ROWS


def _draw_line(ax: Axes, row: int, line: _Line, shown: Sequence[str], values: npt.NDArray[np.float64]) -> None:
    x = _LABEL_CHARS
    for index in line.tokens:
        cell = _cell_chars(shown[index])
        probability = math.exp(min(0.0, float(values[index]))) if math.isfinite(values[index]) else 0.0
        _, fill, colour, _ = next(shade for shade in SHADES if probability >= shade[0])
        ax.add_patch(Rectangle((x + 0.08, row + 0.1), cell - 0.16, 0.8, facecolor=fill, linewidth=0))
        middle = x + cell / 2
        ax.text(middle, row + 0.37, shown[index], family=_MONO, fontsize=_FONT_POINTS, color=colour, ha="center", va="center")
        ax.text(middle, row + 0.72, _probability(probability), fontsize=6.2, color=colour, ha="center", va="center")
        x += cell


def _probability(value: float) -> str:
    if value >= 0.995:
        return "1"
    if value >= 0.01:
        return f"{value:.2f}"
    return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−") if value > 0 else "0"


def _draw_label(ax: Axes, row: int, step: int, logprob: float, weakest: bool) -> None:
    ax.text(0.3, row + 0.36, f"step {step + 1}", fontsize=8, va="center", weight="bold" if weakest else "normal")
    nats = f"{-logprob:.0f}" if logprob <= -_ROUND_FROM else short_number(-logprob, 2)
    words = f"{nats} nats" if math.isfinite(logprob) else "impossible"
    note: dict[str, Any] = {"fontsize": NOTE - 1, "color": VERMILION} if weakest else {"fontsize": NOTE, "color": MUTED}
    ax.text(0.3, row + 0.72, f"weakest, {words}" if weakest else words, va="center", **note)


def _frame(ax: Axes, lines: Sequence[_Line], weakest: int | None, chars: float) -> None:
    rows = [row for row, line in enumerate(lines) if line.step == weakest]
    if not rows or len({line.step for line in lines}) == 1:
        return
    ax.add_patch(
        Rectangle((0.05, rows[0] + 0.02), chars - 0.1, rows[-1] - rows[0] + 0.96, fill=False, edgecolor=VERMILION, linewidth=1.6)
    )


def _draw_legend(ax: Axes, num_rows: int) -> None:
    x = _LABEL_CHARS - 2.0
    ax.text(0.3, num_rows + 0.42, "probability", fontsize=NOTE, va="center", color=MUTED)
    for _, fill, _, words in SHADES:
        ax.add_patch(Rectangle((x + 0.08, num_rows + 0.24), 1.8, 0.36, facecolor=fill, edgecolor=INK, linewidth=0.4))
        ax.text(x + 2.3, num_rows + 0.42, words, fontsize=NOTE, va="center")
        x += 2.8 + 0.74 * len(words)
