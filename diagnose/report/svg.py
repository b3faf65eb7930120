"""Figures inside the page: SVG whose colours follow the page's light and dark theme."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from posttrain.analysis.figures import draw_figure, palette
from posttrain.diagnose.report.report_figures import ReportFigure

_THEME = {
    palette.INK: "ink",
    palette.MUTED: "muted",
    palette.GRID: "grid",
    palette.PAPER: "paper",
    palette.BLUE: "blue",
    palette.VERMILION: "vermilion",
    palette.GREEN: "green",
    palette.PURPLE: "purple",
    palette.ORANGE: "orange",
}
"""Colours of the figures and the names of the page's variables that replace them."""


def draw_svg(figure: ReportFigure) -> str:
    """Return the figure as the text of a self-contained SVG file on white."""
    return draw_figure(figure.axes, "svg").decode()


def inline_svg(text: str, prefix: str, words: str) -> Markup:
    """Return an SVG file as an element of a page.

    Args:
        text: The SVG as matplotlib writes it.
        prefix: Put before every id, so that several figures can stand in one page.
        words: What a screen reader says.

    Returns:
        An `<svg>` element that scales with its container, with colours as variables `--fig-...` and nothing to load.
    """
    box = re.search(r'viewBox="([\d. ]+)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", box.end()) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<style type="text/css">.*?</style>', "", body, flags=re.DOTALL)
    # Tokens and labels are drawn as outlines; matplotlib repeats their text in comments, which a page has no use for.
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{prefix}-', body)
    body = body.replace("url(#", f"url(#{prefix}-")
    for colour, name in _THEME.items():
        body = body.replace(colour, f"var(--fig-{name})")
    body = re.sub(r"\s*\n\s*", " ", body)
    width = float(box.group(1).split()[2])
    # All of it is matplotlib's own output, in which model text exists only as outlines.
    attributes = f'class="figure" viewBox="{box.group(1)}" role="img" style="max-width: {width * 1.6:.0f}px"'
    return Markup(f'<svg {attributes} aria-label="{escape(words)}">{body}</svg>')
