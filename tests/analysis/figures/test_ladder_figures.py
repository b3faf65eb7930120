"""The figures of the prefix ladder and of availability: what they show, and that they bear empty and odd numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from helpers.refusals import assert_refuses
from matplotlib.axes import Axes

from posttrain.analysis.figures.availability import availability
from posttrain.analysis.figures.prefix_ladder import PLACEBOS, prefix_ladder
from posttrain.analysis.figures.style import numbers_of

NAN = float("nan")
CURVE = [
    {"fraction": f, "condition": "reference", "n": 9, "c": 1, "rate": f / 2, "low": f / 4, "high": f} for f in (0.5, 0.0, 0.25)
]
MARKERS = [{"fraction": 0.4, "condition": name, "n": 9, "c": 1, "rate": 0.1, "low": 0.0, "high": 0.3} for name in PLACEBOS]


def step(path: str, number: int, reach: float, local: float, binds: bool = False) -> dict[str, Any]:
    return {
        "problem": "p",
        "path": path,
        "step": number,
        "log_reach": math.log(reach),
        "log_local": math.log(local),
        "binds": binds,
    }


STEPS = [step("reference", 1, 1.0, 0.5), step("reference", 2, 0.5, 0.001, True), step("own", 1, 1.0, 1.0)]


def words(ax: Axes) -> set[str]:
    legend = ax.get_legend()
    return {text.get_text() for text in legend.get_texts()} if legend else set()


def draw(ax: Axes, path: Path) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(path)


def test_the_ladder_shows_the_curve_and_its_placebos(tmp_path: Path) -> None:
    ax = prefix_ladder([*CURVE, *MARKERS, {**MARKERS[0], "condition": "a new one"}], title="t")
    assert words(ax) == {"first part of the path", *PLACEBOS, "a new one"}
    curve = next(line for line in ax.get_lines() if len(line.get_xdata()) == 3)
    assert list(curve.get_xdata()) == [0.0, 0.25, 0.5]
    assert len(numbers_of(ax)) == 7
    # In greyscale shape and filling tell them apart.
    assert len({(marker, filled) for _, marker, filled in PLACEBOS.values()}) == len(PLACEBOS)
    draw(ax, tmp_path / "ladder.png")


def test_availability_marks_what_binds(tmp_path: Path) -> None:
    ax = availability(STEPS, epsilon=0.006, title="t")
    assert {"ε", "prefix and step together ε", "binds (which step)"} < words(ax)
    assert [text.get_text() for text in ax.texts] == ["2"]
    assert numbers_of(ax) == STEPS
    assert ax.get_ylim()[0] < -3
    draw(ax, tmp_path / "availability.png")
    ticks = {label.get_text() for label in ax.get_yticklabels()}
    assert "10⁻³" in ticks
    assert not any("$" in text for text in ticks)  # formulas are not read in the style of these figures
    assert "ε" not in words(availability(STEPS))
    assert_refuses(availability, {"rows": [step("reference", 1, 1.0, 1.0)]}, rows=[step("mine", 1, 1.0, 1.0)])


@pytest.mark.parametrize("figure", [prefix_ladder, availability])
def test_nothing_and_undefined_numbers_are_borne(figure: Any, tmp_path: Path) -> None:
    rows: list[dict[str, Any]]
    for rows in (
        [],
        [{**CURVE[0], **STEPS[0], "rate": NAN, "log_local": NAN}],
        [{**CURVE[0], **STEPS[0], "low": None, "high": NAN}],
    ):
        ax = figure(rows)
        draw(ax, tmp_path / "figure.png")
    assert matplotlib.rcParams["figure.figsize"] == matplotlib.rcParamsDefault["figure.figsize"]
    # What can hardly be happens too: a log-probability of minus infinity is drawn at the edge.
    draw(availability([{**STEPS[0], "log_local": -math.inf}]), tmp_path / "edge.png")
