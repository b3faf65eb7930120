"""Checks of imported samples: what can be told of a measurement without its engine."""

from __future__ import annotations

from collections.abc import Iterator

from posttrain.diagnose.importing.imported import Untold
from posttrain.diagnose.measure.check_values import DEPLOYMENT_POLICY, Checked, Failure, check_share
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Outcome, SamplingMeasurement, ValidityCode, ValidityMeasurement


def check_imported(
    behavior: Behavior,
    counts: SamplingMeasurement,
    untold: frozenset[Untold],
    thresholds: Thresholds,
) -> ValidityMeasurement:
    """Check whether imported samples can be believed, as far as that shows without the engine that sampled them.

    Args:
        behavior: What they are of.
        counts: What was counted of them.
        untold: What their source does not tell; what rests on it is not checked.
        thresholds: Of the verdict.
    """
    found = list(_check_shares(counts, untold, thresholds))
    failures = [failure for _, failures in found for failure in failures]
    return ValidityMeasurement(
        behavior=behavior.name,
        checks=tuple(check for check, _ in found),
        notes=_notes(behavior),
        failures=tuple(failure.words for failure in failures),
        failure_codes=tuple(failure.code for failure in failures),
        prompt_example="",
    )


def _notes(behavior: Behavior) -> tuple[str, ...]:
    if not behavior.sampling.known:
        return (
            "How the samples were taken (temperature, truncation) is not known: a missing success says nothing about support.",
        )
    return () if behavior.sampling.samples_the_policy else (DEPLOYMENT_POLICY,)


def _check_shares(counts: SamplingMeasurement, untold: frozenset[Untold], thresholds: Thresholds) -> Iterator[Checked]:
    """Check how many samples are cut off, or have no grade."""
    n, missing = int(counts.num_samples.sum()), int(counts.num_missing.sum())
    if Untold.STOP_REASONS not in untold:
        num = int(counts.num_truncated.sum())
        check = check_share("validity: truncated share", num, n, thresholds.max_truncated, "samples that ran into max_tokens")
        text = f"{check.estimate:.0%} of samples ran into the token limit: sample again with a larger one, and import that"
        yield check, [Failure(ValidityCode.TRUNCATED, text)] if check.outcome is Outcome.NOT_MET else []
    check = check_share("validity: missing share", missing, n + missing, thresholds.max_missing, "samples without a grade")
    text = f"{check.estimate:.0%} of samples have no grade in the source: grade them there, or with posttrain regrade"
    yield check, [Failure(ValidityCode.MISSING_GRADES, text)] if check.outcome is Outcome.NOT_MET else []
