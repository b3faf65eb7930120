"""What `compare` prints of a behavior on the command line: each term with its meaning, since no glossary stands beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from posttrain.analysis.number_format import format_interval
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry
from posttrain.diagnose.comparison.comparison_words import ROLE_MEANINGS
from posttrain.diagnose.report.comparison_view import comparison_facts
from posttrain.diagnose.report.words import CHANGES
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry

_SUPPORT = {
    "SRR": "of the problems in support before, the share that still is",
    "NDR": "of the problems in support after, the share that was not before",
}
"""Those of the four numbers that say something by themselves; all of them, with their names, stand in the report."""


def comparison_lines(entry: BehaviorChangeEntry) -> Iterator[str]:
    """Yield the change of a behavior, what it means, and the states of its problems, line by line."""
    one = entry.pass_at_1
    yield (
        f"{entry.name}: pass@1 {_interval(one.before)} to {_interval(one.after)}, "
        f"change {_interval(one.delta, signed=True)} (paired 95 %, {entry.num_problems} problems); {entry.role.words}"
    )
    epsilon = entry.measure.get("epsilon")
    support = f"solved in at least {epsilon:.2g} of samples" if epsilon else "solved often enough"
    yield f"  that means: {ROLE_MEANINGS[entry.role_observed]} (in support: {support})"
    for note in entry.role.notes:
        yield f"  {note}"
    counts = Counter(change.state for change in entry.problems)
    states = [f"{counts[state]} {label} ({meaning})" for state, (label, meaning) in CHANGES.items() if counts[state]]
    if states:
        yield "  problems: " + ", ".join(states)
    for name, meaning in _SUPPORT.items():
        if name in entry.support:
            row = entry.support[name]
            yield f"  {meaning}: {row.estimate:.2f} (one model sampled twice: {_interval(row.null)})"
    for name, words in comparison_facts(entry):
        yield f"  {name}: {words}"


def _interval(entry: EstimateEntry, *, signed: bool = False) -> str:
    return format_interval(entry.estimate, entry.low, entry.high, signed=signed)
