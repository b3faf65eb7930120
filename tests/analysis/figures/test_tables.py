"""How numbers and tables are written."""

from __future__ import annotations

import pytest

from posttrain.analysis.tables import (
    Interval,
    before_after_rows,
    escape_latex,
    escape_markdown,
    format_interval,
    format_number,
    format_probability,
    latex_table,
    markdown_table,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.56, 0.48, 0.64), ".56 [.48, .64]"),
        ((1.0, 0.93, 1.0), "1.00 [.93, 1.00]"),
        ((0.002, 0.0, 0.077), ".002 [.000, .077]"),
        ((0.9964, 0.99, 0.999), ".996 [.990, .999]"),
        ((-0.04, -0.12, 0.03), "−.04 [−.12, .03]"),
        ((412.4, 350.0, 1480.0), "412 [350, 1 480]"),
        ((NAN, NAN, NAN), "–"),
        ((0.5, NAN, NAN), ".50 [–, –]"),
        ((0.97, 0.97, 0.97), ".97"),
    ],
)
def test_intervals(numbers: tuple[float, float, float], text: str) -> None:
    assert format_interval(*numbers) == text


def test_signs() -> None:
    assert format_interval(0.25, 0.19, 0.31, signed=True) == "+.25 [+.19, +.31]"
    assert format_interval(0.0, -0.1, 0.1, signed=True) == ".00 [−.10, +.10]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, ".90"),
        (0.125, ".125"),
        (0.00639, ".00639"),
        (12400, "12 400"),
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
    ("value", "text"), [(0.97, ".97"), (0.9951, ">.99"), (1.0, "1"), (0.004, "<.01"), (0.0, "0"), (NAN, "–")]
)
def test_probabilities_never_round_to_certainty(value: float, text: str) -> None:
    assert format_probability(value) == text


def test_markdown_table() -> None:
    table = markdown_table(["name", "x"], [["a|b", Interval(0.56, 0.48, 0.64)], ["<c>", None]])
    assert table.splitlines() == ["| name | x |", "| --- | ---: |", "| a\\|b | .56 [.48, .64] |", "| &lt;c> | – |"]
    assert markdown_table(["a"], []).splitlines() == ["| a |", "| --- |"]


def test_latex_table() -> None:
    table = latex_table(["pass_1", "n"], [["50 %", 3], ["−.1 ≥ x", NAN]], caption="A & b", label="tab:a")
    assert r"\begin{tabular}{lr}" in table
    assert r"pass\_1 & n \\" in table
    assert r"50 \% & 3 \\" in table
    assert r"$-$.1 $\geq$ x & -- \\" in table
    assert r"\caption{A \& b}" in table
    assert r"\label{tab:a}" in table
    assert "table}" not in latex_table(["a"], [])


def test_ragged_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells, the header has 2"):
        markdown_table(["a", "b"], [["x", 1], ["y"]])


def test_before_after_rows() -> None:
    part = {
        "name": "products",
        "before": (0.31, 0.23, 0.39),
        "after": (0.56, 0.48, 0.64),
        "delta": (0.25, 0.19, 0.31),
        "num_problems": 32,
    }
    header, rows = before_after_rows([part])
    assert header[1] == "pass@1 before"
    assert (
        markdown_table(header, rows).splitlines()[-1] == "| products | .31 [.23, .39] | .56 [.48, .64] | +.25 [+.19, +.31] | 32 |"
    )


def test_hostile_text() -> None:
    assert escape_markdown("a\n> <b> [x](y) *c* _d_ e_f `g` |") == "a > &lt;b> [x]\\(y) \\*c\\* \\_d\\_ e_f \\`g\\` \\|"
    assert escape_markdown("> quote") == "\\> quote"
    assert escape_latex("\\input{x}") == r"\textbackslash{}input\{x\}"
