"""How numbers are written: a leading zero, two decimals, whole counts."""

from __future__ import annotations

import pytest

from posttrain.analysis.number_format import format_interval, format_number, format_probability

NAN = float("nan")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.56, 0.48, 0.64), "0.56 [0.48, 0.64]"),
        ((1.0, 0.93, 1.0), "1.00 [0.93, 1.00]"),
        ((0.002, 0.0, 0.077), "0.002 [0.000, 0.077]"),
        ((0.0, 0.0, 0.004), "0.000 [0.000, 0.004]"),
        ((0.9964, 0.99, 0.999), "0.996 [0.990, 0.999]"),
        ((0.9964, 0.66, 1.0), "1.00 [0.66, 1.00]"),
        ((0.009, -0.143, 0.125), "0.01 [−0.14, 0.12]"),
        ((-0.04, -0.12, 0.03), "−0.04 [−0.12, 0.03]"),
        ((31.0, 28.04, 34.0), "31.00 [28.04, 34.00]"),
        ((412.4, 350.0, 1480.0), "412 [350, 1 480]"),
        ((NAN, NAN, NAN), "–"),
        ((0.5, NAN, NAN), "0.50 [–, –]"),
        ((0.97, 0.97, 0.97), "0.97"),
    ],
)
def test_intervals(numbers: tuple[float, float, float], text: str) -> None:
    assert format_interval(*numbers) == text


def test_signs() -> None:
    assert format_interval(0.25, 0.19, 0.31, signed=True) == "+0.25 [+0.19, +0.31]"
    assert format_interval(0.0, -0.1, 0.1, signed=True) == "0.00 [−0.10, +0.10]"


def test_decimals_can_be_asked_for() -> None:
    assert format_interval(40.0, 20.0, 64.0, decimals=1) == "40.0 [20.0, 64.0]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.90"),
        (0.125, "0.12"),
        (0.00639, "0.006"),
        (12400, "12 400"),
        (12400.7, "12 401"),
        (3.14159, "3.14"),
        (0, "0"),
        (1e-9, "1.0e−9"),
        (None, "–"),
        (NAN, "–"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_infinite() -> None:
    assert [format_number(float(sign + "inf")) for sign in "+-"] == ["∞", "−∞"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.97, "0.97"),
        (0.9951, "0.995"),
        (0.9999, ">0.999"),
        (1.0, "1"),
        (0.004, "0.004"),
        (0.0001, "<0.001"),
        (0.0, "0"),
        (NAN, "–"),
    ],
)
def test_probabilities_never_round_to_certainty(value: float, text: str) -> None:
    assert format_probability(value) == text
