"""The words of a regrading, on the command line and in the report: whose grade changed, and what that does to the verdict."""

from __future__ import annotations

from typing import Any

from posttrain.analysis.number_format import format_interval
from posttrain.diagnose.report.text import visible, write_estimate
from posttrain.diagnose.storage.regrade_json import (
    ChangedSampleEntry,
    GradeEntry,
    GradeOutcome,
    RegradedBehaviorEntry,
    RegradedProblemEntry,
    RegradeFile,
)

_MOST_SHOWN = 5
"""Problems and samples of each behavior, on the command line."""
_MOST_ROWS, _MOST_EXAMPLES = 100, 20
"""The same on a page."""
_MOST_CHARACTERS = 200


def regrade_lines(file: RegradeFile) -> list[str]:
    """Return what a regrading came to, line by line."""
    return [line for behavior in file.behaviors for line in _behavior_lines(behavior)]


def regraded_view(entry: RegradedBehaviorEntry) -> dict[str, Any] | None:
    """Return what a page says of whose grade changed in a behavior; None where it was not graded again."""
    if not entry.regraded:
        return None
    return {
        "summary": f"{_summary(entry)}.",
        "pass_at_1": f"{_pass_at_1(entry)}.",
        "before": entry.before.sentence,
        "problems": [(one.id, *_rates(one)) for one in entry.problems[:_MOST_ROWS]],
        "hidden": max(0, len(entry.problems) - _MOST_ROWS),
        "examples": [
            {
                "which": f"{one.problem_id}, {_which(one)}",
                "before": _words(one.before),
                "now": _words(one.after),
                "answer": visible(one.answer),
                "text": visible(one.text),
            }
            for one in entry.examples[:_MOST_EXAMPLES]
        ],
    }


def _behavior_lines(entry: RegradedBehaviorEntry) -> list[str]:
    if not entry.regraded:
        return [f"{entry.name}: not graded again"]
    lines = [f"{entry.name}: {_summary(entry)}", f"  {_pass_at_1(entry)}"]
    lines += [f"  before: {entry.before.sentence}", f"  now: {entry.after.sentence}"]
    for one in entry.problems[:_MOST_SHOWN]:
        before, now = _rates(one)
        lines.append(f"  problem {one.id}: {before} right, now {now}")
    hidden = len(entry.problems) - _MOST_SHOWN
    lines += [f"  and {hidden} more problems"] if hidden > 0 else []
    return [*lines, *(_sample_line(one) for one in entry.examples[:_MOST_SHOWN])]


def _summary(entry: RegradedBehaviorEntry) -> str:
    """Return how many grades changed, and how."""
    kinds = [verifier.kind if verifier else "unknown" for verifier in (entry.verifier_before, entry.verifier_after)]
    by = kinds[0] if kinds[0] == kinds[1] else f"{kinds[0]}, now {kinds[1]}"
    kinds_of_change = {name: count for name, count in entry.changes.items() if not _unchanged(name)}
    changes = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in sorted(kinds_of_change.items(), key=lambda one: -one[1])
    )
    return f"{entry.num_changed} of {entry.num_samples} grades changed{': ' + changes if changes else ''} (verifier {by})"


def _pass_at_1(entry: RegradedBehaviorEntry) -> str:
    delta = entry.pass_at_1_delta
    return (
        f"pass@1 {write_estimate(entry.before.pass_at_1)}, now {write_estimate(entry.after.pass_at_1)}; change "
        f"{format_interval(delta.estimate, delta.low, delta.high, signed=True)} (paired 95 %)"
    )


def _rates(one: RegradedProblemEntry) -> tuple[str, str]:
    """Return how many samples of a problem were right before, and are now."""
    return f"{one.num_correct_before} of {one.num_samples_before}", f"{one.num_correct_after} of {one.num_samples_after}"


def _which(one: ChangedSampleEntry) -> str:
    return "greedy sample" if one.greedy else f"sample {one.sample_index}"


def _unchanged(name: str) -> bool:
    first, _, second = name.partition("_to_")
    return GradeOutcome(first) is GradeOutcome(second)


def _sample_line(one: ChangedSampleEntry) -> str:
    text = " ".join(visible(one.text).split())
    shown = text if len(text) <= _MOST_CHARACTERS else f"{text[:80]} … {text[-(_MOST_CHARACTERS - 80) :]}"
    return f"  {one.problem_id}, {_which(one)}: {_words(one.before)}, now {_words(one.after)}; expected {visible(one.answer)!r}: {shown!r}"


def _words(grade: GradeEntry) -> str:
    if grade.extracted is not None:
        return f"{grade.outcome} (read {visible(grade.extracted)!r})"
    return f"{grade.outcome} ({visible(grade.detail)})" if grade.detail else str(grade.outcome)
