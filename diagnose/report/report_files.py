"""Write the report of a folder: HTML, Markdown and figures, from its diagnosis.json, its checkpoints.json, or its compare.json and loop.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.analysis.figures import figure_csv
from posttrain.diagnose.comparison.checkpoints_json import CheckpointsFile
from posttrain.diagnose.comparison.compare_json import CompareFile
from posttrain.diagnose.comparison.loop_json import LoopFile
from posttrain.diagnose.errors import RunError, UserError
from posttrain.diagnose.report.html import render_html
from posttrain.diagnose.report.markdown import render_markdown
from posttrain.diagnose.report.page import checkpoints_page, comparison_page, diagnosis_page
from posttrain.diagnose.report.regrade_words import regraded_view
from posttrain.diagnose.report.report_figures import (
    BY_TURNS,
    ReportFigure,
    behavior_figures,
    checkpoint_figures,
    comparison_figures,
    loop_figures,
    probe_figures,
)
from posttrain.diagnose.report.svg import draw_svg, inline_svg
from posttrain.diagnose.storage.diagnosis_json import DiagnosisFile
from posttrain.diagnose.storage.files import write_text
from posttrain.diagnose.storage.json_model import read_model
from posttrain.diagnose.storage.regrade_json import RegradeFile

FINAL = "final"
"""Folder, beside a comparison, of the comparison on the final split."""


def write_report(
    folder: Path, diagnosis: DiagnosisFile | None = None, content: Mapping[str, Any] | None = None
) -> tuple[Path, Path]:
    """Write `report.html`, `report.md` and `figures/` from the JSON in a folder.

    Every file is written to a temporary name, synced and renamed, figures first, so that a page never points at a missing figure.

    Args:
        folder: Holds diagnosis.json, or checkpoints.json, or compare.json and perhaps `final/compare.json` and loop.json.
        diagnosis: What was just written as diagnosis.json; None reads it.
        content: The same as JSON, where it is known.

    Returns:
        The paths of the HTML and of the Markdown page.

    Raises:
        RunError: There is none of these files, or it cannot be read, or a field is of another kind than a report needs (`unreadable_field`).
    """
    try:
        html, markdown = _pages(folder, diagnosis, content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, UserError):
            raise
        raise RunError(
            f"report {folder}: a field of its JSON is missing, unknown or of another kind ({' '.join(str(error).split())[:80]}); run the command "
            "that wrote it again",
            code="unreadable_field",
        ) from error
    _write(folder / "report.md", markdown)
    _write(folder / "report.html", html)
    return folder / "report.html", folder / "report.md"


def _pages(folder: Path, diagnosis: DiagnosisFile | None, content: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the HTML and the Markdown page, their figures written."""
    if diagnosis is not None:
        page = _diagnosis(folder, diagnosis, diagnosis.to_json() if content is None else content)
    elif (folder / "compare.json").exists():
        files = [folder / "compare.json", folder / FINAL / "compare.json"]
        page = _comparison(folder, [read_model(path, CompareFile) for path in files if path.exists()])
    elif (folder / "checkpoints.json").exists():
        page = _checkpoints(folder, read_model(folder / "checkpoints.json", CheckpointsFile))
    elif (folder / "diagnosis.json").exists():
        file = read_model(folder / "diagnosis.json", DiagnosisFile)
        page = _diagnosis(folder, file, file.to_json())
    else:
        raise RunError(
            f"report {folder}: holds neither diagnosis.json nor compare.json nor checkpoints.json; give the folder of a `posttrain diagnose`, `compare` or `loop`",
            code="nothing_to_report",
        )
    return render_html(page), render_markdown(page)


def _diagnosis(folder: Path, file: DiagnosisFile, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the page of a diagnosis, its figures written."""
    page = diagnosis_page(file)
    regraded = folder / "regrade.json"
    changes = {one.name: regraded_view(one) for one in read_model(regraded, RegradeFile).behaviors} if regraded.exists() else {}
    for part, entry in zip(page["behaviors"], content["behaviors"], strict=True):
        written = _write_figures(folder, part["slug"], part["name"], behavior_figures(folder, entry, file.settings))
        part["regraded"] = changes.get(entry["name"])
        part["figures"] = [figure for figure in written if figure["name"] != BY_TURNS]
        if part["turns"]:
            part["turns"]["figures"] = [figure for figure in written if figure["name"] == BY_TURNS]
        for probe, found in zip(part["probes"], entry["probes"], strict=True):
            figures = probe_figures(folder, entry, file.settings, found)
            probe["figures"] = _write_figures(folder, part["slug"], part["name"], figures)
    return page


def _comparison(folder: Path, files: Sequence[CompareFile]) -> dict[str, Any]:
    """Return the page of a comparison, its figures written."""
    rounds = folder / "loop.json"
    loop = read_model(rounds, LoopFile) if rounds.exists() else None
    page = comparison_page(files, loop)
    entries = [behavior.to_json() for file in files for behavior in file.behaviors]
    for part, entry in zip(page["comparisons"], entries, strict=True):
        part["figures"] = _write_figures(folder, part["slug"], part["name"], comparison_figures(folder, entry))
    if loop is not None and page["loop"] is not None:
        page["loop"]["figures"] = _write_figures(folder, "rounds", "all behaviors", loop_figures(folder, loop.to_json()))
    return page


def _checkpoints(folder: Path, file: CheckpointsFile) -> dict[str, Any]:
    """Return the page of several checkpoints, its figures written."""
    page, content = checkpoints_page(file), file.to_json()
    for part, entry in zip(page["checkpoints"]["behaviors"], content["behaviors"], strict=True):
        part["figures"] = _write_figures(folder, part["slug"], part["name"], checkpoint_figures(folder, entry, content))
    return page


def _write_figures(folder: Path, slug: str, name: str, figures: Sequence[ReportFigure]) -> list[dict[str, Any]]:
    """Write the figures of one part, and return how the pages show them."""
    shown = []
    for figure in figures:
        path = Path("figures") / slug / f"{figure.name}.svg"
        svg = draw_svg(figure)
        _write(folder / path, svg)
        _write((folder / path).with_suffix(".csv"), figure_csv(figure.axes))
        shown.append(
            {
                "name": figure.name,
                "title": figure.title,
                "caption": figure.caption,
                "path": path.as_posix(),
                "svg": inline_svg(svg, f"{slug}-{figure.name}", f"{figure.title}, {name}. {figure.caption}"),
            }
        )
    return shown


def _write(path: Path, text: str) -> None:
    # Halves of surrogate pairs, which a model may write, cannot be stored.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
