"""Write the report of a run: HTML, Markdown and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.analysis.figures import figure_csv
from posttrain.diagnose.report.content import ReportContent
from posttrain.diagnose.report.figures import ReportFigure, behavior_figures, comparison_figures, probe_figures
from posttrain.diagnose.report.html import render_html
from posttrain.diagnose.report.markdown import render_markdown
from posttrain.diagnose.report.svg import draw_svg, inline_svg
from posttrain.diagnose.report.view import page_view
from posttrain.diagnose.storage.run_directory import write_text


def write_report(run_dir: Path, content: ReportContent) -> tuple[Path, Path]:
    """Write `report.html`, `report.md` and `figures/` of a run.

    Every file is written to a temporary name, synced and renamed, figures first, so that a page never points at a missing figure.

    Args:
        run_dir: The run directory; made if it does not exist.
        content: What was measured and decided.

    Returns:
        The paths of the HTML and of the Markdown page.
    """
    view = page_view(content, run_dir)
    for part, report in zip(view["behaviors"], content.behaviors, strict=True):
        part["figures"] = _write_figures(run_dir, part["slug"], part["name"], behavior_figures(report))
        for probe, answer in zip(part["probes"], report.answers, strict=True):
            probe["figure"] = next(iter(_write_figures(run_dir, part["slug"], part["name"], probe_figures(answer, report))), None)
    for part, comparison in zip(view["comparisons"], content.comparisons, strict=True):
        part["figures"] = _write_figures(run_dir, part["slug"], part["name"], comparison_figures(comparison))
    html, markdown = run_dir / "report.html", run_dir / "report.md"
    _write(markdown, render_markdown(view))
    _write(html, render_html(view))
    return html, markdown


def _write_figures(run_dir: Path, slug: str, name: str, figures: tuple[ReportFigure, ...]) -> list[dict[str, Any]]:
    """Write the figures of one part, and say how the pages show them."""
    shown = []
    for figure in figures:
        path = Path("figures") / slug / f"{figure.name}.svg"
        svg = draw_svg(figure)
        _write(run_dir / path, svg)
        _write((run_dir / path).with_suffix(".csv"), figure_csv(figure.axes))
        words = f"{figure.title}, {name}. {figure.caption}"
        shown.append(
            {
                "name": figure.name,
                "title": figure.title,
                "caption": figure.caption,
                "path": path.as_posix(),
                "svg": inline_svg(svg, f"{slug}-{figure.name}", words),
            }
        )
    return shown


def _write(path: Path, text: str) -> None:
    # Halves of surrogate pairs, which a model may write, cannot be stored.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
