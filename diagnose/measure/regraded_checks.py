"""Validity checks of samples that were graded again: those that rest on grades are made anew, the others are what they were."""

from __future__ import annotations

from posttrain.diagnose.measure.check_values import Checked, Failure, check_share
from posttrain.diagnose.measure.sample_checks import (
    CONTRADICTION,
    MISSING,
    UNFINISHED,
    UNPARSED,
    SampledBehavior,
    check_candidates,
    check_contradiction,
    spread_samples,
)
from posttrain.diagnose.measure.setup_checks import SELF_TEST_NAMES, WARNING, check_selftest, selftest_notes
from posttrain.diagnose.measure.unread_samples import UnreadSamples, explain_unread, show_unread
from posttrain.diagnose.measure.validity_checks import ended_unread
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Behavior, Outcome, ValidityCode, ValidityMeasurement
from posttrain.diagnose.verifiers.selftest import SelfTest

_OF_GRADES = frozenset(
    {
        ValidityCode.REFUSES_ANSWERS,
        ValidityCode.REFUSES_REFERENCES,
        ValidityCode.ACCEPTS_ANYTHING,
        ValidityCode.ACCEPTS_WRONG_ANSWERS,
        ValidityCode.ACCEPTS_CANDIDATES,
        ValidityCode.UNFINISHED_THOUGHT,
        ValidityCode.UNREAD,
        ValidityCode.MISSING_GRADES,
        ValidityCode.CONTRADICTION,
    }
)
"""Failures that rest on grades."""
_CANDIDATES = "validity: successes that list candidates"


def check_regraded(
    behavior: Behavior, thresholds: Thresholds, before: ValidityMeasurement, selftest: SelfTest, samples: SampledBehavior
) -> ValidityMeasurement:
    """Check whether grades that were given again can be believed.

    Args:
        behavior: Whose verifier graded.
        thresholds: Of the verdict.
        before: What was checked when the samples were taken.
        selftest: What the verifier said of texts whose grade is known.
        samples: With the new grades.
    """
    unread = show_unread(samples.problems, spread_samples(samples, ended_unread(samples.rollouts)))
    found = [*check_selftest(selftest, thresholds), *_check_grades(behavior, thresholds, samples, unread)]
    cases = {case.name: case for case in selftest.cases}
    if "candidates" in cases and cases["candidates"].num_failed and (one := check_candidates(behavior, thresholds, samples)):
        found.append(one)
    codes = {failure.code for _, failures in found for failure in failures}
    if (one := check_contradiction(behavior, thresholds, samples.counts, samples.paths)) is not None:
        found.append((one[0], []) if codes or before.failure_codes else one)
    made_anew = {*SELF_TEST_NAMES, UNPARSED, MISSING, UNFINISHED, CONTRADICTION, _CANDIDATES, *(check.name for check, _ in found)}
    kept = [(code, words) for code, words in zip(before.failure_codes, before.failures, strict=False) if code not in _OF_GRADES]
    failures = [*kept, *((failure.code, failure.words) for _, one in found for failure in one)]
    return ValidityMeasurement(
        behavior=behavior.name,
        checks=(*(check for check in before.checks if check.name not in made_anew), *(check for check, _ in found)),
        notes=(*(note for note in before.notes if not note.startswith(WARNING)), *selftest_notes(selftest)),
        failures=tuple(words for _, words in failures),
        failure_codes=tuple(code for code, _ in failures),
        unread=unread.texts,
        share_stated=unread.share_stated,
        prompt_example=before.prompt_example,
    )


def _check_grades(behavior: Behavior, thresholds: Thresholds, samples: SampledBehavior, unread: UnreadSamples) -> list[Checked]:
    """Check how many samples cannot be read, have no grade, or do not close their thought."""
    counts = samples.counts
    n, missing = int(counts.num_samples.sum()), int(counts.num_missing.sum())
    read = check_share(
        UNPARSED, int(counts.num_unparsed.sum()), n, thresholds.max_unparsed, "samples in which no answer could be read"
    )
    graded = check_share(MISSING, missing, n + missing, thresholds.max_missing, "samples without a grade")
    found: list[Checked] = [(read, []), (graded, [])]
    if num_unfinished := int(counts.num_unfinished_thoughts.sum()):
        check = check_share(UNFINISHED, num_unfinished, n, thresholds.max_truncated, "samples whose thought is not closed")
        text = f"{check.estimate:.0%} of samples open a thought and do not close it: sample again with a larger max_tokens"
        found.append((check, [Failure(ValidityCode.UNFINISHED_THOUGHT, text)] if check.outcome is Outcome.NOT_MET else []))
    ended = int((samples.rollouts.unparsed & ~samples.rollouts.truncated & ~samples.rollouts.greedy).sum())
    if read.outcome is Outcome.NOT_MET and ended > thresholds.max_unparsed * n:
        found[0][1].append(explain_unread(behavior, f"{read.estimate:.0%} of samples", unread))
    if graded.outcome is Outcome.NOT_MET:
        text = (
            f"{graded.estimate:.0%} of samples have no grade: the verifier failed or timed out on them, or they failed when they were sampled, or their texts "
            "are not stored; see their details in rollouts/"
        )
        found[1][1].append(Failure(ValidityCode.MISSING_GRADES, text))
    return found
