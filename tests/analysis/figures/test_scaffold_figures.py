"""The figures of the probes scaffold, decoding and teacher: what they show, and that they bear what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from helpers.refusals import assert_refuses
from matplotlib.text import Annotation

from posttrain.analysis.figures import draw_figure, figure_csv, save_figure
from posttrain.analysis.figures.scaffold import scaffold
from posttrain.analysis.figures.style import paper
from posttrain.analysis.figures.teacher import teacher


def condition(name: str, rate: float | None, gain: float | None, n_problems: int = 20) -> dict[str, Any]:
    ends = {"low": None, "high": None} if rate is None else {"low": max(0.0, rate - 0.1), "high": min(1.0, rate + 0.1)}
    paired = {"gain_low": None, "gain_high": None} if gain is None else {"gain_low": gain - 0.1, "gain_high": gain + 0.1}
    return {"condition": name, "n_problems": n_problems, "n": 80, "c": 8, "rate": rate, **ends, "gain": gain, **paired}


CONDITIONS = [
    condition("baseline", 0.1, None),
    condition("with $a$ hint that has a long name", 0.8, 0.7, 11),
    condition("with worked examples", 0.12, 0.02),
    condition("worse", 0.0, -0.1001),
    condition("best of 16", None, None),
]
TEACHER = [
    {"panel": panel, "of": of, "under": under, "estimate": value, "low": value - 0.1, "high": value + 0.1, "n_problems": 20}
    for panel, of, values in (
        ("success", "all problems", (0.3, 0.8)),
        ("likelihood", "student's right samples", (-0.3, -0.4)),
        ("likelihood", "student's wrong samples", (-0.3, -1.4)),
        ("likelihood", "teacher's samples", (-2.3, -0.2)),
    )
    for under, value in zip(("student", "teacher"), values, strict=True)
]


def test_scaffold_shows_every_condition_with_its_gain(tmp_path: Path) -> None:
    ax = scaffold(CONDITIONS, title="t")
    assert [label.get_text().replace("\n", " ") for label in ax.get_yticklabels()] == [
        "baseline",
        "with $a$ hint that has a long name (11 of 20 problems)",
        "with worked examples",
        "worse",
        "best of 16",
    ]
    words = [text.get_text() for text in ax.texts if isinstance(text, Annotation)]
    assert words == ["paired gain", "+0.70\n[+0.60, +0.80]", "+0.02\n[−0.08, +0.12]", "−0.10\n[−0.20, 0.00]", "gain undefined"]
    (legend,) = [ax.get_legend()]
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["baseline", "better", "worse", "no change shown"]
    reference = [line for line in ax.lines if list(line.get_xdata()) == [0.1, 0.1] and line.get_linestyle() == "--"]
    assert len(reference) == 1
    image, numbers = save_figure(ax, tmp_path / "scaffold.svg")
    assert image.stat().st_size > 1000
    assert len(numbers.read_text().splitlines()) == 1 + len(CONDITIONS)


def test_texts_do_not_run_into_one_another() -> None:
    ax = scaffold(CONDITIONS)
    figure = ax.get_figure(root=True)
    assert figure is not None
    with paper():
        figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if isinstance(text, Annotation)]
    assert all(not one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])
    assert all(box.x1 <= figure.bbox.x1 and box.x0 >= ax.get_window_extent().x1 for box in boxes)


def test_teacher_shows_both_panels() -> None:
    ax = teacher(TEACHER, title="t")
    upper, lower = ax.child_axes
    assert upper.get_xlabel() == "success rate"
    assert "nats" in lower.get_xlabel()
    assert len(lower.get_yticklabels()) == 3
    assert lower.get_xlim()[1] > 0
    draw_figure(ax, "pdf")
    assert figure_csv(ax).count("\n") == 1 + len(TEACHER)
    gone = [{**row, "estimate": None, "low": None, "high": None} if "right" in row["of"] else row for row in TEACHER]
    _, lower = teacher(gone).child_axes
    assert [text.get_text() for text in lower.texts] == ["no such samples"]


def test_nothing_measured_and_wrong_words() -> None:
    for drawn in (scaffold([]), teacher([])):
        assert draw_figure(drawn, "svg")
    assert_refuses(teacher, {"rows": [TEACHER[0]]}, rows=[{**TEACHER[0], "panel": "other"}])
    assert_refuses(teacher, {"rows": [TEACHER[0]]}, rows=[{**TEACHER[0], "under": "other"}])


def test_nothing_global_is_left_behind() -> None:
    before = dict(matplotlib.rcParams)
    scaffold(CONDITIONS)
    teacher(TEACHER)
    assert dict(matplotlib.rcParams) == before
