"""The report as Markdown, with the same words and numbers as the HTML page."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from posttrain.analysis.plots.tables import escape_markdown


def fence(text: str, language: str = "text") -> Markup:
    """Return text as a code block whose fence is longer than any run of backticks inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return Markup(f"{ticks}{language}\n{text}\n{ticks}")


def code(text: str) -> Markup:
    """Return text as code inside a line."""
    line = " ".join(text.split()).replace("|", "¦")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return Markup(f"{ticks}{space}{line}{space}{ticks}")


def join_cells(cells: list[str]) -> Markup:
    """Return the cells of one row of a table, each escaped."""
    return Markup(" | ").join(Markup(escape_markdown(cell)) for cell in cells)


def _safe(value: object) -> str:
    return str(value) if isinstance(value, Markup) else escape_markdown(str(value))


@cache
def _environment() -> Environment:
    # Markdown has escapes of its own, so `finalize` does for it what autoescape does for HTML: every expression goes through it.
    environment = Environment(
        loader=PackageLoader("posttrain.diagnose.report", ""),
        autoescape=False,
        finalize=_safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(fence=fence, code=code, join_cells=join_cells)
    return environment


def render_markdown(view: dict[str, Any]) -> str:
    """Render the page as Markdown.

    Args:
        view: As for `render_html`; figures are linked by their `path` relative to the run directory.

    Returns:
        GitHub-flavoured Markdown.
    """
    text = _environment().get_template("report.md.j2").render(page=view)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
