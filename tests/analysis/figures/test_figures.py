"""Every figure returns its axes, writes SVG and CSV, and bears empty and undefined numbers."""

from __future__ import annotations

import csv
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from helpers.figures import DRAW, PROBE_ROWS
from helpers.refusals import assert_refuses
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from posttrain.analysis.figures import draw_figure, figure_csv, save_figure
from posttrain.analysis.figures.palette import PAPER
from posttrain.analysis.figures.style import legend_columns, paper, printable, text_points
from posttrain.analysis.figures.success_histogram import bin_edges
from posttrain.analysis.number_format import short_number
from posttrain.analysis.plots.registry import FIGURES

NAN = float("nan")
POINTS = [
    {"k": k, "estimate": 0.1 * k, "low": 0.1 * k - 0.05, "high": 0.1 * k + 0.05, "extrapolated": k > 4} for k in (1, 2, 4, 8)
]
TURNS = [
    {"turns": turns, "k": k, "estimate": 0.2 * turns, "low": 0.1 * turns, "high": 0.25 * turns}
    for turns in (1, 2, 3)
    for k in (1, 4)
]
CHECK = {"name": "pass@1", "op": ">=", "estimate": 0.3, "low": 0.2, "high": 0.4, "threshold": 0.9, "n": 32, "outcome": "not_met"}
TOKENS = ["3", " times", "\n", "$4$", "日本", "\ud800", "<script>"]
SIGNAL = [
    {
        "group_size": size,
        "estimate": 0.8 / size,
        "low": 0.5 / size,
        "high": 0.9 / size,
        "too_hard": 0.6 / size,
        "too_easy": 0.2 / size,
    }
    for size in (2, 4, 6, 8)
]
PROBLEM_LABELS = ("preserved", "expanded", "attrited", "out_of_support", "undetermined")
CHANGES = [{"id": str(i), "before": i / 5, "after": 0.5, "state": state} for i, state in enumerate(PROBLEM_LABELS)] * 2
COVER = [{"tau": tau, "estimate": 1 - tau, "low": 0.9 - tau, "high": 1.0} for tau in (0.25, 0.5, 1.0)]
MIXTURE = [
    {"from": 0.0, "to": 0.006, "estimate": 1.5, "low": 0.0, "high": 2.0},
    {"from": 0.0, "to": 0.0, "estimate": NAN, "low": 0.0, "high": 2.0},
    {"from": 1.0, "to": 1.0, "estimate": 0.5, "low": 0.0, "high": 1.0},
]
SUPPORT = {"name": "NDR", "estimate": 0.3, "low": 0.1, "high": 0.5, "null_estimate": 0.1, "null_low": 0.0, "null_high": 0.2}
RETENTION = {
    "behavior": "a_long_name_of_a_behavior",
    "before": 0.2,
    "after": 0.6,
    "estimate": 0.4,
    "low": 0.1,
    "high": 0.7,
    "n": 9,
}
ROUNDS = [
    {"behavior": name, "group": group, "round": number, "from": origin, "estimate": rate, "low": rate - 0.05, "high": rate + 0.05}
    for name, group in (("products", "target"), ("$kept$", "retention"))
    for number, origin, rate in ((0, None, 0.2), (1, 0, 0.6), (2, 0, 0.4))
]

ALONG = [
    {"checkpoint": label, "place": place, "k": k, "estimate": rate, "low": rate - 0.1, "high": rate + 0.1}
    for label, place, rate in (("$base$", 0, 0.2), ("step 100", 100, 0.6), ("step 250", 250, 0.5))
    for k in (1, 16)
]


def probe_options(name: str) -> dict[str, Any]:
    """Return the options of the figure of a probe."""
    return {"title": "t", **({"epsilon": 0.006} if "epsilon" in inspect.signature(DRAW[name]).parameters else {})}


CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "pass_at_k": (
        ({"before": POINTS, "after": POINTS[:2]},),
        {"primary_k": 4, "title": "$t$", "crossing": {"k": 3.0, "k_low": 0.5, "k_high": 99.0, "probability": 0.9}},
    ),
    "cover_at_tau": (({"before": COVER, "after": COVER[:1]},), {"title": "t"}),
    "success_histogram": (
        ({"before": [0, 0.5, 1, NAN], "after": [0.2]},),
        {"epsilon": 0.006, "mastered": 0.9, "title": "t", "mixture": {"before": MIXTURE}},
    ),
    "group_signal_by_size": (
        ([*SIGNAL, {"group_size": 64, "estimate": NAN, "low": 0.01, "high": 0.2, "too_hard": NAN}],),
        {"group_size": 8, "title": "t"},
    ),
    "pass_at_k_by_turns": ((TURNS,), {"title": "t"}),
    "reference_likelihood": ((TOKENS, [-0.1, -3, -9, -0.5, -1, -2, -np.inf]), {"steps": [0, 0, 0, 1, 1, 1, 1], "title": "t"}),
    "step_likelihood": (
        ([{"step": i + 1, "estimate": i, "low": i / 2, "high": NAN, "n": 3} for i in range(20)],),
        {"nats_at_epsilon": 5.0},
    ),
    "before_after": ((CHANGES,), {"title": "t"}),
    "checkpoints": ((ALONG,), {"steps": True, "kept": 1, "title": "t"}),
    "checks": (([CHECK, {**CHECK, "op": "<=", "estimate": 12.0, "high": -3.0, "outcome": "met"}],), {"title": "t"}),
    "support_transitions": (({state: index for index, state in enumerate(PROBLEM_LABELS)},), {"title": "t"}),
    "support_dynamics": (([SUPPORT, {**SUPPORT, "name": "NSCR", "estimate": -0.4, "null_low": -0.6}],), {"title": "t"}),
    "retention": (
        ([{**RETENTION, "group": group, "run": run} for group in ("target", "beside", "retention") for run in ("a", "b")],),
        {"title": "t"},
    ),
    "rounds": ((ROUNDS,), {"stages": ["sft", "replay"], "kept": 1, "title": "t"}),
    **{name: ((PROBE_ROWS[spec.probes[0]],), probe_options(name)) for name, spec in FIGURES.items() if spec.probes},
}
EMPTY: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "pass_at_k": [
        (({},), {}),
        (({"a": []},), {"primary_k": 4}),
        (({"a": [{**POINTS[0], "estimate": None}]},), {}),
        (({"a": POINTS[:1]},), {}),
    ],
    "success_histogram": [
        ((rates,), {"epsilon": 0.006, "mastered": 0.9})
        for rates in ({}, {"a": []}, {"a": [NAN]}, {"a": [0.0]}, {"a": np.zeros(9)})
    ],
    "group_signal_by_size": [
        (([],), {}),
        (([{"group_size": 8, "estimate": None, "low": None, "high": None}],), {"group_size": 8}),
        (([{**SIGNAL[0], "estimate": NAN}],), {"group_size": 9}),
    ],
    "pass_at_k_by_turns": [
        (([],), {}),
        (([{"turns": 1, "k": 1, "estimate": None}],), {}),
        ((TURNS[:1],), {}),
        (([{**TURNS[0], "turns": turns} for turns in (1, 2, 4, 5)],), {}),
    ],
    "reference_likelihood": [
        (([], []), {}),
        ((["a"], [NAN]), {}),
        ((["a"] * 900, [-0.1] * 900), {"steps": [i // 2 for i in range(900)]}),
    ],
    "step_likelihood": [
        (([],), {}),
        (([{"step": 1, "estimate": None}],), {}),
        (([{"step": 1, "estimate": 0.0, "low": 0.0, "high": 0.0}],), {}),
    ],
    "before_after": [(([],), {}), (([{"id": "a", "before": None, "after": 1.0, "state": "preserved"}],), {})],
    "cover_at_tau": [(({},), {}), (({"a": []},), {}), (({"a": [{"tau": 1.0, "estimate": None}]},), {})],
    "support_transitions": [(({},), {}), (({"preserved": 0},), {}), (({"expanded": 1, "preserved": 999},), {})],
    "support_dynamics": [(([],), {}), (([{"name": "SRR"}, {**SUPPORT, "estimate": NAN, "null_low": None}],), {})],
    "retention": [(([],), {}), (([{**RETENTION, "run": "a", "group": "target", "before": None, "low": NAN}],), {})],
    "rounds": [(([],), {}), ((ROUNDS[:1],), {}), (([{**ROUNDS[0], "estimate": None}, {**ROUNDS[1], "low": NAN}],), {"kept": 0})],
    "checkpoints": [
        (([],), {}),
        ((ALONG[:1],), {"kept": 0}),
        (([{**ALONG[0], "estimate": None}, {**ALONG[2], "low": NAN}],), {"kept": 9}),
    ],
    **{name: [(([],), {})] for name, spec in FIGURES.items() if spec.probes},
    "checks": [(([],), {}), (([{**CHECK, "estimate": NAN, "low": None, "high": None, "outcome": "inconclusive"}],), {})],
}


def test_every_figure_has_a_case() -> None:
    assert set(CASES) == set(EMPTY) == set(DRAW)


@pytest.mark.parametrize("name", sorted(DRAW))
def test_figure_returns_axes_and_writes_svg_and_csv(name: str, tmp_path: Path) -> None:
    arguments, options = CASES[name]
    axes = DRAW[name](*arguments, **options)
    assert isinstance(axes, Axes)
    drawn, numbers = save_figure(axes, tmp_path / "deep" / f"{name}.svg")
    text = drawn.read_text()
    assert text.startswith("<?xml")
    assert "<script" not in text
    assert "<image" not in text
    rows = list(csv.DictReader(numbers.read_text(errors="replace").splitlines()))
    assert rows
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("name", sorted(DRAW))
def test_figure_draws_where_it_is_told(name: str) -> None:
    arguments, options = CASES[name]
    figure = Figure(figsize=(4, 3))
    left, right = figure.subplots(1, 2)
    assert DRAW[name](*arguments, **options, ax=right) is right
    assert not left.has_data()
    assert draw_figure(figure, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in EMPTY.items() for case in range(len(cases))])
def test_figure_bears_empty_and_undefined_numbers(name: str, case: int) -> None:
    arguments, options = EMPTY[name][case]
    assert draw_figure(DRAW[name](*arguments, **options), "svg")


def test_files_embed_fonts_and_carry_no_date() -> None:
    axes = DRAW["pass_at_k"]({"a": POINTS})
    assert draw_figure(axes, "svg") == draw_figure(DRAW["pass_at_k"]({"a": POINTS}), "svg")
    pdf = draw_figure(axes, "pdf")
    assert b"/FontFile2" in pdf
    assert b"CreationDate" not in pdf


def test_figures_leave_no_global_state() -> None:
    before = dict(matplotlib.rcParams)
    DRAW["checks"]([CHECK])
    assert dict(matplotlib.rcParams) == before


def test_figures_need_no_pyplot_and_no_torch() -> None:
    imports = "import sys, pkgutil, importlib, posttrain.analysis.figures as f, posttrain.diagnose.report.report_files"
    imports += "; [importlib.import_module(f'{f.__name__}.{module.name}') for module in pkgutil.iter_modules(f.__path__)]"
    lines = f"{imports}; print([name for name in ('matplotlib.pyplot', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_csv_holds_the_numbers_and_the_panel() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    DRAW["checks"]([CHECK], ax=left)
    DRAW["checks"]([CHECK], ax=right)
    rows = list(csv.DictReader(figure_csv(figure).splitlines()))
    assert [row["panel"] for row in rows] == ["0", "1"]
    assert float(rows[0]["low"]) == 0.2


@pytest.mark.parametrize(
    ("name", "accepted", "wrong"),
    [
        ("checks", {"rows": [CHECK]}, {"rows": [{**CHECK, "outcome": "failed"}]}),
        ("before_after", {"rows": CHANGES[:1]}, {"rows": [{**CHANGES[0], "state": "lost"}]}),
        ("success_histogram", {"rates": {"a": [0.1]}, "epsilon": 0.1, "mastered": 0.9}, {"epsilon": 0.9, "mastered": 0.1}),
        ("reference_likelihood", {"tokens": ["a"], "logprobs": [-1.0]}, {"logprobs": [-1.0, -2.0]}),
        ("support_transitions", {"counts": {"preserved": 1}}, {"counts": {"lost": 1}}),
        (
            "retention",
            {"rows": [{**RETENTION, "run": "a", "group": "target"}]},
            {"rows": [{**RETENTION, "run": "a", "group": "others"}]},
        ),
    ],
)
def test_wrong_input_is_refused(name: str, accepted: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert_refuses(DRAW[name], accepted, **wrong)


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    drawn = {"drawn": DRAW["checks"]([]), "path": tmp_path / "a.svg"}
    assert_refuses(save_figure, drawn, path=tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()


def test_histogram_counts_edges_upwards() -> None:
    assert bin_edges(0.006, 0.9).tolist() == [0, 0.006, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    axes = DRAW["success_histogram"]({"a": [0.0, 0.006, 0.9, 1.0]}, epsilon=0.006, mastered=0.9)
    counts = [int(row["problems"]) for row in csv.DictReader(figure_csv(axes).splitlines())]
    assert (counts[0], counts[1], counts[-1], sum(counts)) == (1, 1, 2, 4)
    assert bin_edges(0.05, 1.0)[-2:].tolist() == [0.9, 1.0]


def test_text_is_made_drawable() -> None:
    assert printable("a\nb\x00日") == "a↵b□□"
    assert printable("x" * 80, limit=5) == "xxxx…"
    assert [short_number(value) for value in (0.25, -0.5, 0.0064, 12.0, NAN)] == ["0.25", "−0.5", "0.0064", "12", "–"]


@pytest.mark.parametrize("name", ["pass_at_k", "cover_at_tau"])
def test_series_differ_without_colour(name: str) -> None:
    rows = POINTS[:3] if name == "pass_at_k" else COVER
    axes = DRAW[name](dict.fromkeys("abcdef", rows))
    markers = [str(line.get_marker()) for line in axes.get_lines() if str(line.get_marker()) != "None"]
    assert len(set(markers)) == 6


def test_filled_areas_differ_without_colour() -> None:
    histogram = DRAW["success_histogram"]({"a": [0.2], "b": [0.2], "c": [0.2]}, epsilon=0.006, mastered=0.9)
    assert len({container.patches[0].get_hatch() for container in histogram.containers}) == 3
    flows = DRAW["support_transitions"](dict.fromkeys(PROBLEM_LABELS, 3))
    bands = [patch for patch in flows.patches if isinstance(patch, Polygon)]
    assert len(bands) == len({band.get_hatch() for band in bands}) == 5


def test_extrapolated_points_are_hollow_and_dashed() -> None:
    axes = DRAW["pass_at_k"]({"a": POINTS})
    looks = {(line.get_linestyle(), line.get_markerfacecolor() == PAPER) for line in axes.get_lines() if len(line.get_xdata())}
    assert ("--", False) in looks
    assert ("None", True) in looks


def test_bands_keep_the_proportions_of_the_problems() -> None:
    axes = DRAW["support_transitions"]({"preserved": 30, "attrited": 10})
    heights = {
        band.get_hatch(): float(np.ptp([y for x, y in band.get_xy() if x < 0.03]))
        for band in axes.patches
        if isinstance(band, Polygon)
    }
    assert sorted(heights.values()) == pytest.approx([0.25, 0.75])


def test_an_empty_figure_says_why() -> None:
    for name, words in (
        ("pass_at_k", "no pass@k is defined"),
        ("cover_at_tau", "no problem was sampled"),
        ("retention", "no behavior was compared"),
    ):
        axes = DRAW[name]([] if name == "retention" else {})
        assert words in [text.get_text() for text in axes.texts]


def test_a_legend_takes_as_many_columns_as_fit() -> None:
    labels = ["short", "a rather longer label", "x"]
    with paper():
        assert legend_columns(labels, 1000.0) == 3
        assert legend_columns(labels, 40.0) == 1
        needed = sum(text_points(label, 7.5) for label in labels)
        assert legend_columns(labels, needed) < 3
