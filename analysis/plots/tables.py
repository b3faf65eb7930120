"""Tables in Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.analysis.number_format import DASH, MINUS, format_interval, format_number, number

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    DASH: "--",
    MINUS: "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "ε": r"$\varepsilon$",
    "∆": r"$\Delta$",
}
_MARKDOWN_SPECIAL = {"\\": "\\\\", "|": "\\|", "`": "\\`", "*": "\\*", "&": "&amp;", "<": "&lt;"}


class EstimateCell(NamedTuple):
    """An estimate with its interval; NaN where undefined."""

    estimate: float
    low: float
    high: float


Cell = str | int | float | EstimateCell | None
"""What may stand in a table. None and NaN are written as a dash."""

Table = tuple[list[str], list[list[Cell]]]
"""Header and rows."""


def format_cell(cell: Cell) -> str:
    """Return any cell as plain text."""
    if isinstance(cell, EstimateCell):
        return format_interval(*cell)
    if isinstance(cell, str):
        return cell
    return format_number(cell)


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line, also inside a table."""
    line = "".join(_MARKDOWN_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
    # Brackets stay readable (intervals are full of them): only what would make a link, an emphasis or a strike is broken up.
    line = re.sub(r"^>(?![.\d])", r"\>", line)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", line.replace("](", "]\\(").replace("~~", "\\~\\~"))


def escape_latex(text: str) -> str:
    """Return text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table in GitHub's Markdown; columns of numbers stand on the right.

    Args:
        header: Names of the columns.
        rows: Cells; every row as long as the header.

    Returns:
        The table, without a line break at the end.

    Raises:
        ValueError: A row has another length than the header.
    """
    _check_widths(header, rows)
    rules = ["---:" if right else "---" for right in _numeric_columns(len(header), rows)]
    lines = [
        [escape_markdown(name) for name in header],
        rules,
        *([escape_markdown(format_cell(cell)) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table in LaTeX, for the package booktabs.

    Args:
        header: Names of the columns.
        rows: Cells; every row as long as the header.

    Returns:
        The LaTeX source, without a line break at the end.

    Raises:
        ValueError: A row has another length than the header.
    """
    _check_widths(header, rows)
    columns = "".join("r" if right else "l" for right in _numeric_columns(len(header), rows))
    body = [" & ".join(escape_latex(format_cell(cell)) for cell in row) + r" \\" for row in rows]
    head = " & ".join(escape_latex(name) for name in header) + r" \\"
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the numbers behind a figure as a table: a number and its bounds share a cell, and a column that is empty throughout is left out.

    Args:
        rows: As in the CSV of the figure; `estimate`, `low` and `high` (or `x_estimate`, `x_low`, `x_high`) become one column.

    Returns:
        Header and rows.
    """
    keys = [key for key in dict.fromkeys(key for row in rows for key in row) if any(row.get(key) is not None for row in rows)]
    stems = {key.removesuffix("low") for key in keys if key.endswith("low") and f"{key.removesuffix('low')}high" in keys}
    middles = {stem: f"{stem}estimate" if f"{stem}estimate" in keys else stem.rstrip("_") for stem in stems}
    bounds = {f"{stem}{end}" for stem in stems for end in ("low", "high")}
    shown = [key for key in keys if key not in bounds]
    of = {middle: stem for stem, middle in middles.items()}

    def cell(row: Mapping[str, Any], key: str) -> Cell:
        value = row.get(key)
        if key in of and value is not None:
            return EstimateCell(float(value), number(row, f"{of[key]}low"), number(row, f"{of[key]}high"))
        if isinstance(value, bool):
            return "yes" if value else "no"
        return value if value is None or isinstance(value, str | int | float) else str(value)

    words = {key: "behavior" if key == "panel" else key.replace("_", " ") for key in shown}
    header = [f"{words[key]} [interval]" if key in of else words[key] for key in shown]
    return header, [[cell(row, key) for key in shown] for row in rows]


def pass_at_k_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row per run, one column per k; a k that is extrapolated says so.

    Args:
        rows: `{"run", "k", "estimate", "low", "high", "extrapolated"}` and where there are several panels `panel`; rows without the key
            `estimate` (a crossing) are left out.

    Returns:
        Header and rows.
    """
    known = [row for row in rows if "estimate" in row]
    ks = {int(row["k"]): any(bool(r.get("extrapolated")) for r in known if r["k"] == row["k"]) for row in known}
    found: dict[tuple[str, str], dict[int, EstimateCell]] = {}
    for row in known:
        found.setdefault((str(row.get("panel", "")), str(row["run"])), {})[int(row["k"])] = _bounds(row)
    header = ["behavior", "run", *(f"pass@{k}" + (" (extrapolated)" if ks[k] else "") for k in sorted(ks))]
    return header, [[panel, run, *(cells.get(k) for k in sorted(ks))] for (panel, run), cells in found.items()]


def support_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row per comparison: how many problems are in each state, and SRR, NDR, SDS and NSCR beside their null.

    Args:
        rows: Of `support_transitions`: `{"panel", "state", "problems"}`, and of `support_dynamics`: `{"panel", "name", "estimate",
            "null_estimate", "null_low", "null_high"}`, the latter with a panel that begins with that of the former.

    Returns:
        Header and rows.
    """
    states, names = (list(dict.fromkeys(str(row[key]) for row in rows if key in row)) for key in ("state", "name"))
    cells: list[list[Cell]] = []
    for panel in dict.fromkeys(str(row["panel"]) for row in rows if "state" in row):
        counts = {str(row["state"]): int(row["problems"]) for row in rows if row["panel"] == panel and "state" in row}
        dynamics = {str(row["name"]): row for row in rows if "name" in row and str(row["panel"]).rpartition(": ")[0] == panel}
        cells.append(
            [
                panel,
                *(counts.get(state) for state in states),
                *(
                    f"{format_number(number(dynamics[name], 'estimate'), 2)} ({format_interval(*_bounds(dynamics[name], 'null_'))})"
                    for name in names
                ),
            ]
        )
    return ["behavior", *(state.replace("_", " ") for state in states), *(f"{name} (same model twice)" for name in names)], cells


def retention_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row per behavior and run: before, after, and the paired change, each with its interval.

    Args:
        rows: As `figures.retention` takes them; bounds of before and after are shown where they are there.

    Returns:
        Header and rows.
    """
    header = ["run", "behavior", "group", "pass@1 before", "pass@1 after", "paired change", "problems"]
    return header, [
        [
            *(str(row[key]) for key in ("run", "behavior", "group")),
            *(
                EstimateCell(number(row, side), number(row, f"{side}_low"), number(row, f"{side}_high"))
                for side in ("before", "after")
            ),
            format_interval(*_bounds(row), signed=True),
            row.get("n"),
        ]
        for row in rows
    ]


def _bounds(row: Mapping[str, Any], stem: str = "") -> EstimateCell:
    return EstimateCell(*(number(row, f"{stem}{key}") for key in ("estimate", "low", "high")))


def _check_widths(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {index} has {len(row)} cells, the header has {len(header)}")


def _numeric_columns(num_columns: int, rows: Sequence[Sequence[Cell]]) -> list[bool]:
    return [bool(rows) and all(not isinstance(row[column], str) for row in rows) for column in range(num_columns)]
