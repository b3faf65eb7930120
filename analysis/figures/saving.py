"""Write a figure to disk together with the numbers it shows."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posttrain.analysis.figures.style import numbers_of, paper

_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": "posttrain"},
    "pdf": {"CreationDate": None, "Creator": "posttrain"},
    "png": {"Software": "posttrain"},
}


def figure_of(drawn: Figure | Axes) -> Figure:
    """Return the figure that an axes belongs to; a figure is its own."""
    if isinstance(drawn, Figure):
        return drawn
    figure = drawn.get_figure(root=True)
    assert figure is not None, "the axes was removed from its figure"
    return figure


def draw_figure(drawn: Figure | Axes, file_format: str) -> bytes:
    """Return the figure as the bytes of a file.

    Args:
        drawn: A figure, or an axes of it.
        file_format: `svg`, `pdf` or `png`.

    Returns:
        The file's content; the same for the same figure, since no date is written into it.

    Raises:
        ValueError: The format is none of the three.
    """
    if file_format not in _METADATA:
        raise ValueError(f"cannot write a figure as {file_format!r}; use svg, pdf or png")
    buffer = io.BytesIO()
    with paper():
        figure_of(drawn).savefig(buffer, format=file_format, metadata=_METADATA[file_format])
    return buffer.getvalue()


def figure_rows(drawn: Figure | Axes) -> list[dict[str, Any]]:
    """Return the numbers of all panels of a figure; a key `panel` is added where a panel has a label, or where there are several."""
    panels = [(ax.get_label(), rows) for ax in figure_of(drawn).axes if (rows := numbers_of(ax))]
    return [
        {"panel": label or index, **row} if label or len(panels) > 1 else row
        for index, (label, rows) in enumerate(panels)
        for row in rows
    ]


def figure_csv(drawn: Figure | Axes) -> str:
    """Return the numbers of all panels of a figure as CSV, as in `figure_rows`."""
    rows = figure_rows(drawn)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def save_figure(drawn: Figure | Axes, path: Path | str) -> tuple[Path, Path]:
    """Write a figure, and the numbers it shows as CSV beside it.

    Args:
        drawn: A figure, or an axes of it.
        path: Where to; the suffix `.svg`, `.pdf` or `.png` says how.

    Returns:
        The paths of the figure and of the CSV.

    Raises:
        ValueError: The suffix is none of the three.
    """
    path = Path(path)
    content = draw_figure(drawn, path.suffix.lower().removeprefix("."))
    numbers = path.with_suffix(".csv")
    write_whole(path, content)
    write_whole(numbers, figure_csv(drawn).encode("utf-8", "replace"))
    return path, numbers


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, and the folder it stands in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)
