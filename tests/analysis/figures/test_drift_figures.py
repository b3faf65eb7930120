"""The figures of drift and of data sets: what they mark, and that they bear what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posttrain.analysis.figures.data_reach import data_reach
from posttrain.analysis.figures.drift import drift
from posttrain.analysis.figures.saving import draw_figure, figure_csv
from posttrain.analysis.figures.style import numbers_of

NAN = float("nan")
LOST = {"id": "a", "p_before": 0.8, "p_after": 0.0, "change": -20.0, "lost": True}
KEPT = {"id": "b", "p_before": 0.8, "p_after": 0.7, "change": -0.5, "lost": False}
NEVER = {"id": "c", "p_before": 0.0, "p_after": 0.1, "change": None, "lost": False}
INSIDE = {"side": "completion", "nats_per_token": 0.1, "worst": 2.0, "inside": True, "limit": 5.0}
OUTSIDE = {**INSIDE, "nats_per_token": 2.0, "worst": 14.0, "inside": False}
OWN = {**INSIDE, "side": "own"}
REJECTED = {**OUTSIDE, "side": "rejected"}
CERTAIN = {**INSIDE, "nats_per_token": 0.0, "worst": 0.0}


def legend(ax: Axes) -> list[str]:
    shown = ax.get_legend()
    return [] if shown is None else [text.get_text() for text in shown.get_texts()]


def test_drift_tells_what_fell_from_what_did_not() -> None:
    ax = drift([LOST, KEPT, NEVER], epsilon=0.01, title="t")
    assert legend(ax) == ["before", "now", "fell: 1", "no fall shown: 2"]
    assert [text.get_text() for text in ax.texts] == ["log ε", "never right"]
    low, high = ax.get_xlim()
    assert low < -20
    assert all(low <= tick <= 0.99 for tick in ax.get_xticks())
    assert high > 0.99
    assert numbers_of(ax) == [LOST, KEPT, NEVER]
    assert "p_before" in figure_csv(ax)


def test_drift_without_a_scored_answer_calls_no_problem_never_right() -> None:
    ax = drift([{**LOST, "change": None}, {**KEPT, "change": None}], epsilon=0.01)
    assert [text.get_text() for text in ax.texts] == []
    assert list(ax.get_xticks()) == []
    low, high = ax.get_xlim()
    places = sorted({float(line.get_xdata()[0]) for line in ax.lines})
    assert len(places) == 2
    assert low < places[0] < places[1] < high
    assert places[1] - places[0] > 0.25 * (high - low)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [NEVER],
        [KEPT],
        [{**KEPT, "p_before": None}],
        [{**KEPT, "change": NAN}],
        [{**LOST, "change": 0.0}] * 200,
    ],
)
@pytest.mark.parametrize("epsilon", [None, 0.006])
def test_drift_bears_little_and_much(rows: list[dict[str, Any]], epsilon: float | None) -> None:
    assert draw_figure(drift(rows, epsilon=epsilon), "svg")


def test_data_reach_tells_the_sides_apart() -> None:
    ax = data_reach([INSIDE, OUTSIDE, OUTSIDE, OWN, REJECTED], epsilon=0.05, title="t")
    assert legend(ax) == ["own answers: 1", "rejected: 1", "in support: 1", "out of support: 2", "limit of support", "ε"]
    assert len(numbers_of(ax)) == 5


def test_data_reach_draws_one_line_where_epsilon_is_the_limit() -> None:
    ax = data_reach([INSIDE], epsilon=0.0067)
    assert legend(ax) == ["in support: 1", "limit of support"]


@pytest.mark.parametrize("rows", [[], [CERTAIN], [{**INSIDE, "worst": None}], [{**INSIDE, "limit": NAN}], [OUTSIDE] * 500])
@pytest.mark.parametrize("epsilon", [None, 0.006])
def test_data_reach_bears_little_and_much(rows: list[dict[str, Any]], epsilon: float | None) -> None:
    assert draw_figure(data_reach(rows, epsilon=epsilon), "svg")


def test_both_draw_where_they_are_told() -> None:
    figure = Figure(figsize=(6, 3))
    left, right = figure.subplots(1, 2)
    assert drift([LOST], ax=left) is left
    assert data_reach([INSIDE, OUTSIDE], ax=right) is right
    assert draw_figure(figure, "png").startswith(b"\x89PNG")
