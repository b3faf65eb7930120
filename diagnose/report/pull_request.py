"""Short Markdown for a pull request or a job summary: tables of outcomes and intervals, without links.

Names of behaviors, checkpoints and folders are what users wrote; they stand in code spans, in which GitHub makes no link, no mention and
no reference to an issue.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from posttrain.analysis.number_format import format_number
from posttrain.analysis.plots.tables import escape_markdown
from posttrain.diagnose.comparison.checkpoint_words import RETENTION
from posttrain.diagnose.comparison.checkpoints_json import CheckpointsFile
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry, CompareFile
from posttrain.diagnose.gates.gate_result import OUTCOMES, GatedCondition, GateResult, undecided_words
from posttrain.diagnose.report.checkpoints_view import checkpoint_cells
from posttrain.diagnose.report.comparison_view import READINGS, tone
from posttrain.diagnose.report.markdown import code
from posttrain.diagnose.report.text import visible, write_estimate
from posttrain.diagnose.types import Outcome, Purpose

_MARKS = {Outcome.MET: "✅", Outcome.NOT_MET: "❌", Outcome.INCONCLUSIVE: "❔"}
_LONGEST_NAME = 80
_SIGNS = {">=": "≥", "<=": "≤"}


def gate_markdown(result: GateResult, run: str = "") -> str:
    """Return the outcomes of conditions as Markdown.

    Args:
        result: The outcomes.
        run: The folder that was gated, for the heading; empty to leave it out.
    """
    rows = []
    for one in result.conditions:
        check = one.check
        value = "–" if check.low != check.low else write_estimate(check, signed=check.name.startswith("delta"))
        wanted = f"{check.name} {_SIGNS[check.op]} {check.threshold:g}"
        outcome = f"{_MARKS[check.outcome]} {OUTCOMES[check.outcome]}"
        rows.append([_name(one.behavior), wanted, value, format_number(check.n), outcome])
    head = f"**Gate{f' on {_name(run)}' if run else ''}: {_MARKS[result.outcome]} {OUTCOMES[result.outcome]}**"
    table = _table(["behavior", "wanted", "estimate [95 % interval]", "problems", "outcome"], rows)
    return "\n".join([head, "", table, *_details(result.conditions)]) + "\n"


def comparison_markdown(file: CompareFile) -> str:
    """Return a comparison of two runs as Markdown: pass@1 before and after, its change, and that of pass@k."""
    rows = [_comparison_row(entry) for entry in file.behaviors]
    columns = ["behavior", "pass@1 before", "after", "paired change", "change at primary k", "what it shows", "problems"]
    head = f"**{_name(file.before.run)} → {_name(file.after.run)}**"
    return "\n".join([head, "", _table(columns, rows), "", "Intervals are 95 %, paired by problem."]) + "\n"


def checkpoints_markdown(file: CheckpointsFile) -> str:
    """Return a comparison of several checkpoints as Markdown: which to keep, and a table per behavior."""
    keep, labels = file.keep, [_name(one.label) for one in file.checkpoints]
    head = (
        f"**Keep {labels[keep.index]}**: pass@1 on the targets {write_estimate(keep.score)}, allowing for its having been chosen."
    )
    others = [labels[index] for index in keep.may_be_best if index != keep.index]
    parts = [
        head,
        *([f"As good may be {', '.join(others)}."] if others else []),
        f"Retention: {RETENTION[keep.retention]}.",
    ]
    for behavior in file.behaviors:
        k = behavior.shown_k
        columns = ["checkpoint", "pass@1", "change", *([f"pass@{k}", "change"] if k > 1 else []), "retention"]
        rows = []
        for index, label in enumerate(labels):
            cells = checkpoint_cells(behavior, index)
            at_k = [cells["pass_at_k"], cells["change_at_k"]] if k > 1 else []
            rows.append([label, cells["pass_at_1"], cells["change_at_1"], *at_k, cells["retention"]])
        parts += ["", f"{_name(behavior.name)} ({behavior.purpose}, {behavior.num_problems} problems)", "", _table(columns, rows)]
    return (
        "\n".join([*parts, "", "Intervals of a table hold at all checkpoints at once (95 %); changes are against the first."])
        + "\n"
    )


def _comparison_row(entry: BehaviorChangeEntry) -> list[str]:
    one, primary = entry.pass_at_1, entry.measure.get("primary_k")
    at_k = next((point for point in entry.pass_at_k_delta if point.k == primary and point.k > 1), None)
    words = entry.role.words or READINGS[tone(one.delta)]
    if entry.equivalence is not None and entry.purpose is Purpose.RETENTION:
        words = f"retention: {entry.equivalence.verdict} (margin {entry.equivalence.margin:g})"
    return [
        _name(entry.name),
        write_estimate(one.before),
        write_estimate(one.after),
        write_estimate(one.delta, signed=True),
        "–" if at_k is None else f"pass@{at_k.k} {write_estimate(at_k, signed=True)}",
        words,
        str(entry.num_problems),
    ]


def _details(conditions: Sequence[GatedCondition]) -> list[str]:
    """Return a line for each condition whose interval does not say it all."""
    lines = [
        f"- {_name(one.behavior)} {one.check.name}: {escape_markdown(words)}"
        for one in conditions
        if (words := undecided_words(one))
    ]
    return ["", *lines] if lines else []


def _name(text: str) -> Markup:
    """Return a name that a user gave, as a code span on one line."""
    shown = " ".join(visible(text).split()) or " "
    return code(shown if len(shown) <= _LONGEST_NAME else f"{shown[:_LONGEST_NAME]}…")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; cells that are Markdown already stay as they are."""
    lines = [list(header), ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: str) -> str:
    return str(cell) if isinstance(cell, Markup) else escape_markdown(cell)
