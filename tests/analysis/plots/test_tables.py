"""How tables are written."""

from __future__ import annotations

from helpers.refusals import assert_refuses

from posttrain.analysis.plots.tables import (
    EstimateCell,
    escape_latex,
    escape_markdown,
    latex_table,
    markdown_table,
    pass_at_k_table,
    retention_table,
    rows_table,
    support_table,
)

NAN = float("nan")


def test_markdown_table() -> None:
    table = markdown_table(["name", "x"], [["a|b", EstimateCell(0.56, 0.48, 0.64)], ["<c>", None]])
    assert table.splitlines() == ["| name | x |", "| --- | ---: |", "| a\\|b | 0.56 [0.48, 0.64] |", "| &lt;c> | – |"]
    assert markdown_table(["a"], []).splitlines() == ["| a |", "| --- |"]


def test_latex_table() -> None:
    table = latex_table(["pass_1", "n"], [["50 %", 3], ["−.1 ≥ x", NAN]])
    assert r"\begin{tabular}{lr}" in table
    assert r"pass\_1 & n \\" in table
    assert r"50 \% & 3 \\" in table
    assert r"$-$.1 $\geq$ x & -- \\" in table
    assert latex_table(["A & b"], []).splitlines()[2] == r"A \& b \\"


def test_ragged_rows_are_refused() -> None:
    assert_refuses(markdown_table, {"header": ["a", "b"], "rows": [["x", 1], ["y", 2]]}, rows=[["x", 1], ["y"]])


def test_rows_become_cells_with_intervals() -> None:
    header, rows = rows_table(
        [
            {
                "run": "a",
                "estimate": 0.31,
                "low": 0.23,
                "high": 0.39,
                "null_estimate": None,
                "extrapolated": False,
                "empty": None,
            },
            {"run": "b", "estimate": None, "low": None, "high": None, "null_estimate": 0.5, "null_low": 0.4, "null_high": None},
        ]
    )
    assert header == ["run", "estimate [interval]", "null estimate", "extrapolated", "null low"]
    assert markdown_table(header, rows).splitlines()[2] == "| a | 0.31 [0.23, 0.39] | – | no | – |"


def test_pass_at_k_stands_in_columns() -> None:
    point = {"run": "a", "k": 1, "estimate": 0.5, "low": 0.4, "high": 0.6, "extrapolated": False}
    header, rows = pass_at_k_table(
        [point, {**point, "k": 8, "extrapolated": True}, {**point, "run": "b"}, {"run": "crossing", "k": 2.5}]
    )
    assert header == ["behavior", "run", "pass@1", "pass@8 (extrapolated)"]
    assert rows[1] == ["", "b", EstimateCell(0.5, 0.4, 0.6), None]
    assert r"pass@8 (extrapolated) \\" in latex_table(header, rows)


def test_retention_table() -> None:
    numbers = {
        "before": 0.31,
        "before_low": 0.23,
        "before_high": 0.39,
        "after": 0.56,
        "estimate": 0.25,
        "low": 0.19,
        "high": 0.31,
        "n": 32,
    }
    text = markdown_table(*retention_table([{"run": "a", "behavior": "b", "group": "target", **numbers}]))
    assert text.splitlines()[-1] == "| a | b | target | 0.31 [0.23, 0.39] | 0.56 [–, –] | +0.25 [+0.19, +0.31] | 32 |"


def test_support_table_holds_one_row_per_comparison() -> None:
    null = {"null_estimate": 0.9, "null_low": 0.8, "null_high": 1.0}
    rows = [
        row
        for name in ("sums", "words: more")
        for row in (
            {"panel": name, "state": "preserved", "problems": 3},
            {"panel": name, "state": "attrited", "problems": 1},
            {"panel": f"{name}: beside the null", "name": "SRR", "estimate": 0.75, **null},
            {"panel": f"{name}: beside the null", "name": "NDR", "estimate": None, "null_estimate": None},
        )
    ]
    header, cells = support_table(rows)
    assert header == ["behavior", "preserved", "attrited", "SRR (same model twice)", "NDR (same model twice)"]
    assert cells == [[name, 3, 1, "0.75 (0.90 [0.80, 1.00])", "– (–)"] for name in ("sums", "words: more")]


def test_hostile_text() -> None:
    assert escape_markdown("a\n> <b> [x](y) *c* _d_ e_f `g` |") == "a > &lt;b> [x]\\(y) \\*c\\* \\_d\\_ e_f \\`g\\` \\|"
    assert escape_markdown("> quote") == "\\> quote"
    assert escape_latex("\\input{x}") == r"\textbackslash{}input\{x\}"
