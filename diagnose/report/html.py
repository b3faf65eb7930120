"""The report as one HTML file that loads nothing."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_PACKAGE = "posttrain.diagnose.report"


@cache
def _environment() -> Environment:
    # Autoescape is on for every template: prompts, samples, ids and messages are hostile text.
    return Environment(
        loader=PackageLoader(_PACKAGE, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render_html(view: dict[str, Any]) -> str:
    """Render the page.

    Args:
        view: What `diagnosis_page` or `comparison_page` returns, with `figures` added to every behavior, probe and comparison: dicts with
            `name`, `title`, `caption`, `path` and `svg` (an element, already safe).

    Returns:
        A complete HTML document with styles and figures inside it and no script.
    """
    css = (resources.files(_PACKAGE) / "report.css").read_text(encoding="utf-8")
    return _environment().get_template("report.html.j2").render(page=view, css=Markup(css))
