"""Effort that is expected to decide an undecided condition."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

from posttrain.analysis.stats import Interval, problems_for_half_width, samples_for_half_width, variance_components
from posttrain.analysis.stats.intervals import MEAN_PSEUDO_OBSERVATIONS
from posttrain.diagnose.comparison.compare_json import BehaviorChangeEntry
from posttrain.diagnose.gates.conditions import SHARES, Condition
from posttrain.diagnose.gates.metrics import counts_of
from posttrain.diagnose.storage.diagnosis_json import BehaviorEntry

_AT_THRESHOLD = 1e-3
"""Distance of an estimate from the threshold up to which no effort is expected to decide."""
POWER = 0.8
"""Probability with which the effort decides, if the truth is the estimate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settles:
    """Effort that is expected to decide a condition if the estimate does not change; None where more of it would not."""

    samples: int | None
    """Further samples in total, of the same problems."""
    tokens: int | None
    """Generated tokens of these samples."""
    problems: int | None
    """Alternatively the total number of problems, each sampled as often as now."""


def required_effort(
    entry: BehaviorEntry | BehaviorChangeEntry, condition: Condition, interval: Interval, level: float
) -> Settles | None:
    """Compute the effort with which the relevant bound passes the threshold with a probability of `POWER`, if the truth is the estimate.

    The bound then has to lie z_level + z_power standard errors from the estimate, not only z_level.

    Args:
        entry: The behavior.
        condition: The undecided condition.
        interval: Of its metric.
        level: Confidence of the interval.

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
    z_level, z_power = (float(ndtri(chance)) for chance in (0.5 + level / 2, POWER))
    growth = max(1.0, (reach / distance * (1.0 + z_power / z_level)) ** 2)
    # One problem more than the formula says: intervals of few problems are a little wider than normal ones.
    problems: int | None = math.ceil(num_problems * growth) + 1
    samples: int | None = None
    counts = counts_of(entry)[:2] if isinstance(entry, BehaviorEntry) else None
    if counts is not None and condition.metric in SHARES:
        samples, problems = math.ceil(counts[0].sum() * (growth - 1)), None
    elif counts is not None and condition.metric == "pass@1":
        n = counts[0].mean()
        between, within = variance_components(*counts)
        if not math.isnan(between):
            # The pseudo-observations at both ends of the range add to the variance of few problems.
            between += MEAN_PSEUDO_OBSERVATIONS * 0.5 / num_problems
            shape = {"between_variance": between, "within_variance": within, "level": level, "power": POWER}
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
