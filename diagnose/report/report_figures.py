"""Which figures a report shows, drawn by the registry of figures from the entries of diagnosis.json and compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from posttrain.analysis.plots.panels import Sides
from posttrain.analysis.plots.registry import FIGURES, FigureSpec
from posttrain.analysis.plots.run_reader import Side, Takes, checkpoints_of, one_side, rounds_of

BY_TURNS = "pass_at_k_by_turns"
"""The figure that stands beside the table of the same numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFigure:
    """A drawn figure and the words that go with it."""

    name: str
    """File name without suffix, unique within its behavior."""
    title: str
    caption: str
    axes: Axes


def behavior_figures(folder: Path, entry: Mapping[str, Any], settings: Mapping[str, Any]) -> list[ReportFigure]:
    """Draw the figures of a behavior; those that would have nothing to show are left out.

    Args:
        folder: The folder of the page, for messages.
        entry: An entry of `behaviors` in diagnosis.json.
        settings: Settings of the run.
    """
    validity = {check["name"] for check in entry["validity"]["checks"]}
    shown = {**entry, "checks": [check for check in entry["checks"] if check["name"] not in validity]}
    found = {str(entry["name"]): [Side(str(entry["name"]), folder, shown, settings)]}
    return [
        figure for name, spec in FIGURES.items() if spec.in_diagnosis and spec.needs(shown) for figure in _draw(name, spec, found)
    ]


def probe_figures(
    folder: Path, entry: Mapping[str, Any], settings: Mapping[str, Any], probe: Mapping[str, Any]
) -> list[ReportFigure]:
    """Draw the figures of what one probe of a behavior found."""
    if not probe["rows"]:
        return []
    found = {str(entry["name"]): [Side(str(entry["name"]), folder, {**entry, "probes": [probe]}, settings)]}
    return [
        figure for spec in FIGURES.values() if probe["name"] in spec.probes for figure in _draw(str(probe["name"]), spec, found)
    ]


def comparison_figures(folder: Path, entry: Mapping[str, Any]) -> list[ReportFigure]:
    """Draw the figures of a comparison; those that would have nothing to show are left out.

    Args:
        folder: The folder of the page, for messages.
        entry: An entry of `behaviors` in compare.json.
    """
    name = str(entry["name"])
    both = {name: [Side(side, folder, one_side(folder, entry, side), {}) for side in ("before", "after")]}
    whole = {name: [Side(name, folder, entry, {})]}
    drawn = []
    for key, spec in FIGURES.items():
        found: Sides = whole if spec.takes is Takes.COMPARISONS else both
        if spec.in_comparison and all(spec.needs(side.behavior) for side in found[name]):
            drawn += _draw(key, spec, found)
    return drawn


def loop_figures(folder: Path, file: Mapping[str, Any]) -> list[ReportFigure]:
    """Draw the figure of the rounds of a loop.

    Args:
        folder: The folder of the page, for messages.
        file: The content of loop.json.
    """
    found = {str(entry["name"]): [Side("", folder, entry, rounds_of(file))] for entry in file["behaviors"]}
    return _draw("rounds", FIGURES["rounds"], found) if found else []


def checkpoint_figures(folder: Path, entry: Mapping[str, Any], file: Mapping[str, Any]) -> list[ReportFigure]:
    """Draw the figure of one behavior along the checkpoints.

    Args:
        folder: The folder of the page, for messages.
        entry: An entry of `behaviors` in checkpoints.json.
        file: The content of checkpoints.json.
    """
    name = str(entry["name"])
    return _draw("checkpoints", FIGURES["checkpoints"], {name: [Side(name, folder, entry, checkpoints_of(file))]})


def _draw(name: str, spec: FigureSpec, found: Mapping[str, Sequence[Side]]) -> list[ReportFigure]:
    """Draw every panel of a figure by itself, under the title of the figure that draws it."""
    return [
        ReportFigure(
            name=name if index == 0 else f"{name}-{index + 1}",
            title=FIGURES[panel.figure].title,
            caption=f"{panel.note} {FIGURES[panel.figure].caption}".strip(),
            axes=panel.draw(),
        )
        for index, panel in enumerate(spec.panels(found))
    ]
