"""What a page says of one behavior before and after, as text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from posttrain.analysis.number_format import format_interval, format_number, format_probability
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry, FirstLossEntry, ProblemChangeEntry
from posttrain.diagnose.report.behavior_view import MOST_ROWS, pass_at_k_rows
from posttrain.diagnose.report.text import HasInterval, MethodNotes, write_estimate
from posttrain.diagnose.report.words import CHANGES, SUPPORT
from posttrain.diagnose.storage.diagnosis_json import EstimateEntry
from posttrain.diagnose.types import Purpose, Split

READINGS = {
    "better": "higher",
    "worse": "lower",
    "same": "no difference shown",
    "undefined": "undefined",
}
"""What a paired difference shows: `higher` and `lower` where its whole interval is on one side of 0."""


def comparison_view(entry: BehaviorChangeEntry, split: Split, slug: str, methods: MethodNotes) -> dict[str, Any]:
    """Return everything that a page says of one comparison.

    Args:
        entry: One behavior before and after.
        split: Which problems were compared.
        slug: Its anchor on the page, and the folder of its figures.
        methods: Where methods get their numbers.
    """
    one, totals = entry.pass_at_1, Counter(change.state for change in entry.problems)
    sides = {**entry.beside, **entry.drift}
    return {
        "slug": slug,
        "name": entry.name if split is not Split.FINAL else f"{entry.name} (final split)",
        "trained": "trained" if entry.trained else "not trained",
        "stage": entry.stage or "–",
        "before": write_estimate(one.before),
        "after": write_estimate(one.after),
        "delta": write_estimate(one.delta, signed=True),
        "reading": READINGS[tone(one.delta)],
        "tone": tone(one.delta),
        "num_problems": str(entry.num_problems),
        "method": methods.number(one.delta.method),
        "pass_at_k": pass_at_k_rows(entry.pass_at_k_delta, methods, signed=True),
        "totals": [(CHANGES[state][0], str(totals[state]), CHANGES[state][1]) for state in CHANGES] if entry.problems else [],
        "support": [
            (name, write_estimate(row), write_estimate(row.null), SUPPORT.get(name, ""), methods.number(row.null.method))
            for name, row in entry.support.items()
        ],
        "side_by_side": [
            (row.label or key.replace("_", " "), write_estimate(row.before), write_estimate(row.after))
            for key, row in sides.items()
            if not isinstance(row, EstimateEntry)
        ],
        "divergences": [
            (row.label or key.replace("_", " "), write_estimate(row))
            for key, row in sides.items()
            if isinstance(row, EstimateEntry)
        ],
        "changes": [_change_row(change) for change in sorted(entry.problems, key=_largest_change_first)[:MOST_ROWS]],
        "changes_hidden": max(0, len(entry.problems) - MOST_ROWS),
        "role": entry.role.words,
        "facts": comparison_facts(entry),
        "notes": [
            *(["Problems of the final split, sampled once, after the last round."] if split is Split.FINAL else []),
            *entry.notes,
        ],
    }


def tone(delta: HasInterval) -> str:
    """Return which way a paired difference points: `better`, `worse`, `same` or `undefined`."""
    if math.isnan(delta.low) or math.isnan(delta.high):
        return "undefined"
    return "better" if delta.low > 0 else "worse" if delta.high < 0 else "same"


def comparison_facts(entry: BehaviorChangeEntry) -> list[tuple[str, str]]:
    """Return name and words of the findings of a comparison that need a sentence rather than a table."""
    facts: list[tuple[str, str]] = []
    never, crossing, equivalence, power = entry.never_solved, entry.crossing, entry.equivalence, entry.detectable_rise
    if never is not None and never.num_problems >= 1.0:
        words = (
            f"{write_estimate(never.gain, signed=True)} against fresh samples of the model before; it would look like "
            f"{format_number(never.naive_gain, 2, signed=True)} against the samples that selected them "
            f"({format_number(never.num_problems, 1)} problems)"
        )
        facts.append(("gain where no success was seen before", words))
    if crossing is not None and not math.isnan(crossing.k.estimate):
        k = crossing.k
        words = (
            f"from k = {format_interval(k.estimate, k.low, k.high, decimals=1)} on, the model before passes more often "
            f"(if they cross, of which the probability is {_percent(crossing.probability)})"
        )
        facts.append(("the curves cross", words))
    if entry.first_loss is not None and (words := _first_loss_words(entry.first_loss)):
        facts.append(("first k at which the model after passes less often", words))
    if equivalence is not None and entry.purpose is Purpose.RETENTION:
        verdict = {
            "equivalent": f"no change of pass@1 larger than {equivalence.margin:g}",
            "different": f"pass@1 changed by more than {equivalence.margin:g}",
            "undecided": f"a change of pass@1 larger than {equivalence.margin:g} is neither shown nor ruled out",
        }[equivalence.verdict]
        low, high = (format_number(bound, 2, signed=True) for bound in (equivalence.low, equivalence.high))
        facts.append(("retention", f"{verdict} (90 % interval [{low}, {high}])"))
    if power is not None:
        each = f"{power.num_samples} sample{'s' * (power.num_samples != 1)} each"
        if math.isnan(power.rate):
            words = f"with {each}, no problem could be seen to rise alone"
        else:
            words = (
                f"with {each}, a problem that alone rises from 0 is found in {_percent(power.power)} of cases from a "
                f"rate of {format_number(power.rate)} on"
            )
        facts.append(("minimum detectable effect", words))
    return facts


def _first_loss_words(found: FirstLossEntry) -> str:
    """Return the confidence set for the first k of a loss; nothing where the samples exclude nothing."""
    if found.low is None:
        return f"none up to k = {found.largest_k} (95 % confidence)"
    if found.high is None:
        return f"k = {found.low} or later, or none (95 % confidence set, up to k = {found.largest_k})" if found.low > 1 else ""
    ends = f"k = {found.low}" if found.low == found.high else f"k = {found.low} to {found.high}"
    return f"{ends} (95 % confidence set)"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _largest_change_first(change: ProblemChangeEntry) -> float:
    size = abs(change.after - change.before)
    return 0.0 if math.isnan(size) else -size


def _change_row(change: ProblemChangeEntry) -> list[str]:
    q_value = "–" if change.q_value is None else format_probability(change.q_value)
    return [change.id, format_number(change.before, 2), format_number(change.after, 2), CHANGES[change.state][0], q_value]
