"""Effort that is expected to decide an undecided condition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from posttrain.analysis.stats import Interval, problems_for_half_width, samples_for_half_width, variance_components
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry
from posttrain.diagnose.gates.conditions import SHARES, Condition
from posttrain.diagnose.gates.metrics import counts_of
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry

_AT_THRESHOLD = 1e-3
"""Distance of an estimate from the threshold up to which no effort is expected to decide."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settles:
    """Effort that is expected to decide a condition if the estimate does not change; None where more of it would not."""

    samples: int | None
    """Further samples in total, of the same problems."""
    tokens: int | None
    """Generated tokens of these samples."""
    problems: int | None
    """Alternatively the total number of problems, each sampled as often as now."""


def required_effort(entry: BehaviorEntry | BehaviorChangeEntry, condition: Condition, interval: Interval) -> Settles | None:
    """Compute the effort that moves the relevant bound to the threshold if the estimate does not change.

    Args:
        entry: The behavior.
        condition: The undecided condition.
        interval: Of its metric.

    Returns:
        None where the estimate lies at the threshold or is undefined.
    """
    distance = abs(interval.estimate - condition.threshold)
    if math.isnan(distance) or distance < _AT_THRESHOLD:
        return None
    num_problems = len(entry.problems)
    holds = (interval.estimate > condition.threshold) == (condition.op == ">=")
    upwards = (condition.op == ">=") != holds
    reach = (interval.high - interval.estimate) if upwards else (interval.estimate - interval.low)
    growth = max(1.0, (reach / distance) ** 2)
    # One problem more than the formula says: intervals of few problems are a little wider than normal ones.
    problems: int | None = math.ceil(num_problems * growth) + 1
    samples: int | None = None
    n = sum(row.num_samples or 0 for row in entry.problems) / num_problems
    if condition.metric in SHARES:
        samples, problems = math.ceil(num_problems * n * (growth - 1)), None
    elif condition.metric == "pass@1" and isinstance(entry, BehaviorEntry):
        between, within = variance_components(*counts_of(entry)[:2])
        if not math.isnan(between):
            shape = {"between_variance": between, "within_variance": within}
            needed = samples_for_half_width(distance, num_problems=num_problems, **shape)
            samples = math.ceil(num_problems * max(1.0, needed - n)) if math.isfinite(needed) else None
            problems = max(num_problems + 1, problems_for_half_width(distance, num_samples=max(1, int(n)), **shape))
    per_sample = 0.0
    if isinstance(entry, BehaviorEntry) and entry.cost.samples:
        per_sample = entry.cost.generated_tokens / entry.cost.samples
    return Settles(
        samples=samples,
        tokens=math.ceil(samples * per_sample) if samples is not None and per_sample else None,
        problems=problems,
    )
