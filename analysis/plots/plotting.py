"""From run directories to a figure for a paper: `plot`, the same words as `posttrain plot`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from posttrain.analysis.figures.saving import draw_figure, figure_csv, figure_rows, write_whole
from posttrain.analysis.figures.style import dots_per_inch, legend_columns, paper
from posttrain.analysis.input_error import InputError
from posttrain.analysis.plots.panels import Panel
from posttrain.analysis.plots.registry import FIGURES, FigureSpec
from posttrain.analysis.plots.run_reader import read_sides
from posttrain.analysis.plots.tables import Table, latex_table, markdown_table

WIDTHS: dict[str, float] = {"column": 3.3, "text": 6.9}
"""Inches of one column, and of the text, of a page in two columns."""
_NARROWEST, _WIDEST = 1.5, 40.0
DRAWN = ("pdf", "svg", "png")
SET = ("tex", "md", "csv")
POINTS_PER_INCH = 72
_MARGIN = 12.0
"""Left free beside a legend, points."""
_BOTH = (".pdf", ".svg")
"""What is written where no suffix says it."""


@dataclass(frozen=True, slots=True)
class PlotResult:
    """A figure with its numbers and files; in a notebook it shows itself."""

    name: str
    figure: Figure
    files: tuple[Path, ...] = ()
    """What was written."""
    rows: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    """The numbers that it shows."""

    @property
    def table(self) -> Table:
        """Return the numbers as header and rows of a table."""
        return FIGURES[self.name].table(self.rows)

    def render(self, file_format: str) -> bytes:
        """Return the content of a file: `pdf`, `svg`, `png`, or the numbers as `tex` (booktabs), `md` or `csv`.

        Raises:
            InputError: The format is none of them.
        """
        if file_format in DRAWN:
            return draw_figure(self.figure, file_format)
        if file_format not in SET:
            raise InputError(
                f"cannot write a figure as {file_format!r}; allowed are {', '.join((*DRAWN, *SET))}", code="unknown_format"
            )
        if file_format == "csv":
            text = figure_csv(self.figure)
        else:
            text = (latex_table if file_format == "tex" else markdown_table)(*self.table) + "\n"
        return text.encode("utf-8", "replace")

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()


def plot(
    figure: str,
    runs: str | Path | Sequence[str | Path],
    *,
    out: str | Path | Sequence[str | Path] = (),
    behavior: str | Sequence[str] = (),
    label: str | Sequence[str] = (),
    width: str | float = "column",
) -> PlotResult:
    """Draw a figure from run directories, at the width at which it will be printed.

    Args:
        figure: A name of `FIGURES`, such as `pass_at_k`; `posttrain figures` lists them.
        runs: A folder of `posttrain diagnose`, `compare` or `loop`, or several.
        out: Files to write: `.pdf`, `.svg` and `.png` hold the figure, `.tex` and `.md` its numbers as a table; without a suffix
            PDF and SVG. The numbers stand as `.csv` beside each. Nothing is written without it.
        behavior: The behaviors to show, one panel each; all of the runs without it.
        label: What the legend calls the runs, one each.
        width: `column` (3.3 inches), `text` (6.9), or a number of inches.

    Returns:
        The figure, its numbers, and the files.

    Raises:
        InputError: What was given cannot be drawn; one line says why and what to give instead.
    """
    name, spec = find_figure(figure)
    inches = _inches(width)
    targets = [target for path in _several(out) for target in _targets(Path(path))]
    found = read_sides(_several(runs), spec.takes, behaviors=_texts(behavior), labels=_texts(label))
    try:
        drawn = _draw(spec, list(spec.panels(found)), inches)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        folders = ", ".join(dict.fromkeys(str(side.folder) for sides in found.values() for side in sides))
        raise InputError(
            f"{figure} of {folders}: a field is missing, unknown or of another kind ({error}); run the command that wrote it again",
            code="unreadable_field",
        ) from error
    result = PlotResult(name, drawn, tuple(dict.fromkeys(targets)), tuple(figure_rows(drawn)))
    for target in result.files:
        write_whole(target, result.render(target.suffix.lower().removeprefix(".")))
    return result


def find_figure(name: str) -> tuple[str, FigureSpec]:
    """Return a figure by name; `pass@k` and `pass-at-k` are `pass_at_k`.

    Raises:
        InputError: There is none of that name.
    """
    plain = name.lower().replace("@", "_at_").replace("-", "_")
    if plain in FIGURES:
        return plain, FIGURES[plain]
    close = difflib.get_close_matches(plain, FIGURES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"figure: got {name!r}; {hint}allowed are {', '.join(FIGURES)}", code="unknown_figure")


def _draw(spec: FigureSpec, panels: Sequence[Panel], width: float) -> Figure:
    fitting = max(1, min(len(panels), int(width // spec.least_width)))
    columns = math.ceil(len(panels) / math.ceil(len(panels) / fitting))
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height(width / columns) for panel in line) for line in lines]
    with paper():
        figure = Figure(figsize=(width, sum(heights)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(len(lines), columns, height_ratios=heights)
        axes = []
        for index, panel in enumerate(panels):
            ax = figure.add_subplot(grid[index // columns, index % columns])
            ax.set_label(panel.name)
            options = {"width": width / columns} if panel.needs_width else {}
            panel.draw(ax=ax, title=panel.name if len(panels) > 1 else None, **options)
            axes.append(ax)
        shared = _share_legend(figure, axes, width)
        _share_labels(axes, columns)
        # What legends and titles take comes on top of what the panels need.
        figure.draw_without_rendering()
        for line in range(len(lines)):
            heights[line] += max(_head_inches(ax) for ax in axes[line * columns : (line + 1) * columns])
        grid.set_height_ratios(heights)
        head = 0.0 if shared is None else float(shared.get_window_extent().height) / figure.dpi
        figure.set_size_inches(width, sum(heights) + head)
    return figure


def _head_inches(ax: Axes) -> float:
    """Return the inches that stand above an axes: its legend with the title in it, or the title alone."""
    legend = ax.get_legend()
    if legend is not None:
        return float(legend.get_window_extent().height) / dots_per_inch(ax)
    points = matplotlib.rcParams["axes.titlesize"] + matplotlib.rcParams["axes.titlepad"]
    return float(points) / POINTS_PER_INCH if ax.get_title(loc="left") else 0.0


def _share_labels(axes: Sequence[Axes], columns: int) -> None:
    """Where panels have the same scale, label it at the edge of the figure alone."""
    for which, inner in (
        ("y", [index % columns > 0 for index in range(len(axes))]),
        ("x", [index + columns < len(axes) for index in range(len(axes))]),
    ):
        looks = {(getattr(ax, f"get_{which}label")(), getattr(ax, f"get_{which}lim")()) for ax in axes}
        if len(looks) > 1:
            continue
        for ax, hidden in zip(axes, inner, strict=True):
            if hidden:
                getattr(ax, f"set_{which}label")("")


def _share_legend(figure: Figure, axes: Sequence[Axes], width: float) -> Legend | None:
    """Where all panels have the same legend, show it once, over the whole width."""
    legends = [legend for ax in axes if (legend := ax.get_legend()) is not None]
    texts = [[text.get_text() for text in legend.get_texts()] for legend in legends]
    if not legends or len(legends) < len(axes) or any(text != texts[0] for text in texts):
        return None
    handles = [handle for handle in legends[0].legend_handles if handle is not None]
    for ax, legend in zip(axes, legends, strict=True):
        title = legend.get_title().get_text()
        # A figure may leave room between its axes and what stands above.
        lift = ax.transAxes.inverted().transform(legend.get_bbox_to_anchor().p0)[1]
        legend.remove()
        if title:
            ax.set_title(title, y=lift)
    columns = legend_columns(texts[0], width * POINTS_PER_INCH - _MARGIN)
    return figure.legend(handles, texts[0], loc="outside upper left", ncols=columns)


def _inches(width: str | float) -> float:
    try:
        inches = WIDTHS[width] if isinstance(width, str) and width in WIDTHS else float(width)
    except ValueError:
        inches = float("nan")
    if not _NARROWEST <= inches <= _WIDEST:
        named = ", ".join(f"{name} ({inches:g})" for name, inches in WIDTHS.items())
        raise InputError(
            f"--width: got {width}; allowed are {named}, or a number of inches from {_NARROWEST:g} to {_WIDEST:g}", code="width"
        )
    return inches


def _targets(path: Path) -> list[Path]:
    """Return the files to write for one --out, the numbers as CSV among them."""
    if not path.name or (path.exists() and not path.is_file()):
        raise InputError(
            f"--out: got {path}, which is no file; give the name of a file, in a folder or not", code="out_is_no_file"
        )
    suffix = path.suffix.lower().removeprefix(".")
    if not suffix:
        return [path.with_name(path.name + ending) for ending in (*_BOTH, ".csv")]
    if suffix not in (*DRAWN, *SET):
        raise InputError(
            f"--out: got {path}; allowed are the suffixes {', '.join(f'.{known}' for known in (*DRAWN, *SET))}, or none for PDF and SVG",
            code="unknown_suffix",
        )
    if _is_of_a_report(path):
        raise InputError(f"--out: got {path}, which a report writes; give another name or folder", code="out_is_of_a_report")
    return [path, path.with_suffix(".csv")]


def _is_of_a_report(path: Path) -> bool:
    """Return whether a file is one that `posttrain report` writes into a run or a comparison."""
    owners = [folder.parent for folder in path.parents if folder.name == "figures"]
    owners += [path.parent] if path.name == "report.md" else []
    return any((owner / name).exists() for owner in owners for name in ("run.json", "diagnosis.json", "compare.json"))


def _several(value: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [value] if isinstance(value, str | Path) else list(value)


def _texts(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
