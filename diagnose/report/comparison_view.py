"""What both pages say about one behavior before and after, as text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from posttrain.analysis.plots.tables import format_number, format_probability
from posttrain.diagnose.report.content import ComparisonReport, ProblemChangeRow
from posttrain.diagnose.report.text import write_estimate
from posttrain.diagnose.report.words import CHANGES, SUPPORT
from posttrain.diagnose.types import Estimate

_MOST_ROWS = 400


def comparison_view(report: ComparisonReport, slug: str) -> dict[str, Any]:
    """Everything a page says about one comparison, formatted."""
    totals = Counter(change.state for change in report.changes)
    return {
        "slug": slug,
        "name": report.name,
        "trained": "trained" if report.trained else "not trained",
        "stage": report.stage or "–",
        "before": write_estimate(report.pass_at_1_before),
        "after": write_estimate(report.pass_at_1_after),
        "delta": write_estimate(report.delta, signed=True),
        "reading": reading(report.delta),
        "tone": _tone(report.delta),
        "num_problems": str(report.num_problems),
        "method": report.delta.method,
        "pass_at_k": [
            (
                str(point.k),
                write_estimate(point.value, signed=True),
                "extrapolated" if point.extrapolated else "observed",
                point.value.method,
            )
            for point in report.pass_at_k_delta
        ],
        "totals": [(CHANGES[state][0], str(totals[state]), CHANGES[state][1]) for state in CHANGES] if report.changes else [],
        "support": [
            (row.name, write_estimate(row.value), write_estimate(row.null), SUPPORT.get(row.name, ""), row.null.method)
            for row in report.support
        ],
        "side_by_side": [(row.name, write_estimate(row.before), write_estimate(row.after)) for row in report.side_by_side],
        "changes": [_change_row(change) for change in sorted(report.changes, key=_largest_change_first)[:_MOST_ROWS]],
        "changes_hidden": max(0, len(report.changes) - _MOST_ROWS),
        "role": report.role,
        "facts": report.facts,
        "notes": report.notes,
    }


def reading(delta: Estimate) -> str:
    """What a paired difference shows, and no more than that."""
    match _tone(delta):
        case "better":
            return "higher: the whole interval is above 0"
        case "worse":
            return "lower: the whole interval is below 0"
        case "undefined":
            return "undefined"
        case _:
            return "no difference shown: 0 is inside"


def _tone(delta: Estimate) -> str:
    if math.isnan(delta.low) or math.isnan(delta.high):
        return "undefined"
    return "better" if delta.low > 0 else "worse" if delta.high < 0 else "same"


def _largest_change_first(change: ProblemChangeRow) -> float:
    size = abs(change.after - change.before)
    return 0.0 if math.isnan(size) else -size


def _change_row(change: ProblemChangeRow) -> list[str]:
    q_value = "–" if change.q_value is None else format_probability(change.q_value)
    return [change.id, format_number(change.before, 2), format_number(change.after, 2), CHANGES[change.state][0], q_value]
