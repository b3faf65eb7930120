"""Tables in Markdown and LaTeX, and the one way in which numbers with intervals are written.

An estimate is written with as many digits as its interval supports, and without the zero before the point: `.56 [.48, .64]`.
What is undefined is a dash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DASH = "–"
_MINUS = "−"
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
    _MINUS: "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "ε": r"$\varepsilon$",
    "∆": r"$\Delta$",
}
_MARKDOWN_SPECIAL = {"\\": "\\\\", "|": "\\|", "`": "\\`", "*": "\\*", "&": "&amp;", "<": "&lt;"}


class Interval(NamedTuple):
    """An estimate with its interval; NaN where undefined."""

    estimate: float
    low: float
    high: float


Cell = str | int | float | Interval | None
"""What may stand in a table. None and NaN are written as a dash."""


def format_number(value: float | None, decimals: int | None = None, *, signed: bool = False) -> str:
    """A number as text.

    Args:
        value: The number; None or NaN gives a dash.
        decimals: Digits after the point; three significant digits (and at least two decimals below 1) without it.
        signed: Whether a plus is written.

    Returns:
        For example `.31`, `1.00`, `−.04`, `12 400`.
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if isinstance(value, int):
        decimals = 0
    if decimals is None and 0 < abs(value) < 1e-4:
        return f"{value:.1e}".replace("e-0", "e-").replace("-", _MINUS)
    if decimals is None:
        decimals = 2 if value == 0 else min(6, max(0, 2 - math.floor(math.log10(abs(value)))))
        if 0.01 <= abs(value) < 1:
            decimals = 2 if round(value, 2) == round(value, 3) else 3
    text = f"{abs(value):,.{decimals}f}".replace(",", " ")
    zero = float(text.replace(" ", "")) == 0
    if text.startswith("0."):
        text = text[1:]
    if value < 0 and not zero:
        return _MINUS + text
    return f"+{text}" if signed and not zero else text


def decimals_for(estimate: float, low: float, high: float) -> int | None:
    """How many decimals an interval supports; None where it has no width.

    The last digit is worth at most a fifth of the width, and a small estimate is not rounded away to zero.
    """
    width = high - low
    if not math.isfinite(width) or width <= 0:
        return None
    decimals = max(0, math.ceil(-math.log10(width / 5) - 1e-9))
    if math.isfinite(estimate) and estimate != 0:
        decimals = max(decimals, min(4, math.ceil(-math.log10(2 * abs(estimate)))))
    return min(6, decimals)


def format_interval(estimate: float, low: float, high: float, *, signed: bool = False) -> str:
    """An estimate with its interval.

    Args:
        estimate: The estimate.
        low: Lower bound.
        high: Upper bound.
        signed: Whether pluses are written, for differences.

    Returns:
        For example `.56 [.48, .64]`; a dash when nothing is defined, `.56 [–, –]` when the interval is not, and the number
        alone where it was counted rather than estimated (all three are equal).
    """
    if math.isnan(estimate) and math.isnan(low) and math.isnan(high):
        return DASH
    if estimate == low == high:
        return format_number(estimate, signed=signed)
    decimals = decimals_for(estimate, low, high)
    words = [format_number(value, decimals, signed=signed) for value in (estimate, low, high)]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def format_probability(value: float) -> str:
    """A probability to two decimals that never reads as certain: `>.99` and `<.01` at the ends."""
    if math.isnan(value):
        return DASH
    if value > 0.99:
        return ">.99" if value < 1 else "1"
    if value < 0.01:
        return "<.01" if value > 0 else "0"
    return format_number(value, 2)


def format_cell(cell: Cell) -> str:
    """Any cell as plain text."""
    if isinstance(cell, Interval):
        return format_interval(*cell)
    if isinstance(cell, str):
        return cell
    return format_number(cell)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line, also inside a table."""
    line = "".join(_MARKDOWN_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))
    # Brackets stay readable (intervals are full of them): only what would make a link, an emphasis or a strike is broken up.
    line = re.sub(r"^>(?![.\d])", r"\>", line)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", line.replace("](", "]\\(").replace("~~", "\\~\\~"))


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in GitHub's Markdown; columns of numbers stand on the right.

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


def latex_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str = "", label: str = "") -> str:
    """A table in LaTeX, for the package booktabs.

    Args:
        header: Names of the columns.
        rows: Cells; every row as long as the header.
        caption: Caption; with it (or a label) the tabular stands in a table environment.
        label: Label to refer to.

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
    if caption or label:
        notes = [rf"\caption{{{escape_latex(caption)}}}"] * bool(caption) + [rf"\label{{{label}}}"] * bool(label)
        lines = [r"\begin{table}", r"\centering", *notes, *lines, r"\end{table}"]
    return "\n".join(lines)


def before_after_rows(parts: Sequence[Mapping[str, Any]], metric: str = "pass@1") -> tuple[list[str], list[list[Cell]]]:
    """Header and rows of the table that holds a metric before and after, with the paired difference.

    Args:
        parts: Per behavior `{"name", "before", "after", "delta", "num_problems"}`; the middle three are `Interval`s or triples
            (estimate, low, high), and `delta` is paired by problem, so it is not the difference of the two intervals.
        metric: What is compared.

    Returns:
        The header, and one row of cells per behavior; differences carry a sign.
    """
    header = ["behavior", f"{metric} before", f"{metric} after", "paired difference", "problems"]
    rows: list[list[Cell]] = [
        [
            str(part["name"]),
            Interval(*part["before"]),
            Interval(*part["after"]),
            format_interval(*part["delta"], signed=True),
            int(part["num_problems"]),
        ]
        for part in parts
    ]
    return header, rows


def _check_widths(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {index} has {len(row)} cells, the header has {len(header)}")


def _numeric_columns(num_columns: int, rows: Sequence[Sequence[Cell]]) -> list[bool]:
    return [bool(rows) and all(not isinstance(row[column], str) for row in rows) for column in range(num_columns)]
