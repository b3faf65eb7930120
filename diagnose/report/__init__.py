"""The report of a run: one self-contained HTML page, its Markdown twin, and the figures.

    write_report(run_dir, content)

`content.py` says what it is made from. Nothing is measured or decided here.
"""

from __future__ import annotations

from posttrain.diagnose.report.content import (
    BehaviorReport,
    ComparisonReport,
    Example,
    ProblemChangeRow,
    ReportContent,
    SideBySide,
    SupportRow,
)
from posttrain.diagnose.report.write import write_report

__all__ = [
    "BehaviorReport",
    "ComparisonReport",
    "Example",
    "ProblemChangeRow",
    "ReportContent",
    "SideBySide",
    "SupportRow",
    "write_report",
]
