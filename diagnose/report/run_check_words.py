"""What `posttrain check RUN` prints, in words."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.analysis.number_format import format_number
from posttrain.diagnose.report.text import counted, write_estimate
from posttrain.diagnose.report.words import OUTCOMES
from posttrain.diagnose.storage.run_check_json import CheckedBehavior, RunCheckFile


def run_check_lines(check: RunCheckFile) -> list[str]:
    """Return what a check found, line by line."""
    return [
        f"{check.run}: all files are there and whole",
        *(line for one in check.behaviors for line in _lines(one, check.split)),
    ]


def _lines(behavior: CheckedBehavior, split: str) -> Iterator[str]:
    missing = f", {format_number(behavior.num_missing)} of them without a grade" if behavior.num_missing else ""
    samples = f"{format_number(behavior.num_samples)} samples{missing}"
    yield f"{behavior.name}: {format_number(behavior.num_problems)} {split} problems, {samples}"
    for check in behavior.checks:
        wanted = f"{'≥' if check.op == '>=' else '≤'} {format_number(check.threshold)}"
        yield f"  {check.name}: {write_estimate(check)} {wanted}: {OUTCOMES[check.outcome]} ({counted(check)})"
    yield from (f"  caveat: {caveat}" for caveat in behavior.caveats)
    yield from [f"  warning: {failure}" for failure in behavior.failures] or ["  no warnings"]
