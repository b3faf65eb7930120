"""Sample checks: what samples say of the measurement that made them. Cut off, unread, or at odds with how likely right paths are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import pdtr

from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.measure.check_values import Checked, Failure, check_share, counted, quoted
from posttrain.diagnose.measure.derailed_samples import derailed_samples
from posttrain.diagnose.measure.truncation import explain_truncated, explain_unfinished
from posttrain.diagnose.measure.unread_samples import UnreadSamples, explain_unread
from posttrain.diagnose.storage.rollout_table import Bools, RolloutTable
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Check,
    Outcome,
    PathScore,
    Problem,
    Rollout,
    SamplingMeasurement,
    ValidityCode,
    check_estimate,
)
from posttrain.diagnose.verifiers.wrong_answers import same_answer

UNPARSED = "validity: unparsed share"
"""Where it is not met there is no verdict on a capability; a lenient reading that reads the answers makes it `format`."""
MISSING = "validity: missing share"
UNFINISHED = "validity: unfinished thoughts"
CONTRADICTION = "validity: successes agree with reference paths"
_MOST_READ = 256
"""Samples whose texts are looked at."""
_SEPARATOR = re.compile(r"\s*(?:,|;|/|\||\n|\bor\b|\band\b)\s*")
_NUMBER = re.compile(r"[-+]?[\d.]+")
_SEVERAL = 2


@dataclass(frozen=True, kw_only=True)
class SampledBehavior:
    """Samples of a behavior with what was scored beside them."""

    problems: Sequence[Problem]
    counts: SamplingMeasurement
    rollouts: RolloutTable
    paths: Sequence[PathScore] = ()
    """The reference paths; empty where the engine cannot score."""
    rescored: Sequence[PathScore] = ()
    """What `rescore_samples` returned."""
    formats: Sequence[PathScore] = ()
    """What `score_formats` returned; empty where there was no need."""

    @cached_property
    def derailed(self) -> Bools:
        """Find the [R] samples that derailed."""
        return derailed_samples(self.rollouts)


def check_shares(
    behavior: Behavior, engine: Engine, thresholds: Thresholds, samples: SampledBehavior, unread: UnreadSamples
) -> list[Checked]:
    """Check how many samples are cut off, cannot be read, or have no grade.

    Args:
        behavior: What was measured.
        engine: With what.
        thresholds: Of the verdict.
        samples: What was sampled and scored.
        unread: The samples in which no answer could be read.
    """
    counts, rollouts = samples.counts, samples.rollouts
    n, missing = int(counts.num_samples.sum()), int(counts.num_missing.sum())
    derailed = samples.derailed
    cut_off = rollouts.truncated & ~derailed
    num_truncated = int(counts.num_truncated.sum() - derailed.sum())
    num_unparsed = int(counts.num_unparsed.sum() - (derailed & rollouts.unparsed).sum())
    num_unfinished, limit = int(counts.num_unfinished_thoughts.sum()), behavior.sampling.max_tokens
    what = "samples that ran into max_tokens" + (", derailed ones apart" if derailed.any() else "")
    cut = check_share("validity: truncated share", num_truncated, n, thresholds.max_truncated, what)
    unparsed = check_share(UNPARSED, num_unparsed, n, thresholds.max_unparsed, "samples in which no answer could be read")
    failed = "samples whose verifier failed or timed out"
    ungraded = check_share(MISSING, missing, n + missing, thresholds.max_missing, failed)
    found: list[Checked] = [(cut, []), (unparsed, []), (ungraded, [])]
    if num_unfinished:
        open_thoughts = "samples whose thought is not closed"
        unfinished = check_share(UNFINISHED, num_unfinished, n, thresholds.max_truncated, open_thoughts)
        found.append((unfinished, []))
        if unfinished.outcome is Outcome.NOT_MET:
            words = f"{unfinished.estimate:.0%} of samples (max_tokens={limit})"
            found[-1][1].append(explain_unfinished(behavior, engine, words))
    if cut.outcome is Outcome.NOT_MET and 2 * num_unfinished < num_truncated:
        ran = f"{cut.estimate:.0%} of samples ran into max_tokens={limit}"
        truncated = spread_samples(samples, cut_off)
        found[0][1].append(explain_truncated(behavior, engine, thresholds, truncated, samples.paths, ran))
    ended = int((rollouts.unparsed & ~rollouts.truncated & ~rollouts.greedy).sum())
    if unparsed.outcome is Outcome.NOT_MET and (not found[0][1] or ended > thresholds.max_unparsed * n):
        found[1][1].append(explain_unread(behavior, f"{unparsed.estimate:.0%} of samples", unread))
    if ungraded.outcome is Outcome.NOT_MET:
        found[2][1].append(explain_missing(ungraded))
    return found


def explain_missing(ungraded: Check) -> Failure:
    """Say that too many samples have no grade."""
    text = f"the verifier failed or timed out on {ungraded.estimate:.0%} of samples: see their details in rollouts/, and repair the verifier"
    return Failure(ValidityCode.MISSING_GRADES, text)


def check_candidates(behavior: Behavior, thresholds: Thresholds, samples: SampledBehavior) -> Checked | None:
    """Check how many successes list several candidates, where the verifier accepts such lists; None without a success.

    Args:
        behavior: What was measured.
        thresholds: Of the verdict.
        samples: What was sampled.
    """
    problems = samples.problems
    rows = spread_samples(samples, samples.rollouts.succeeded(behavior.measure.success))
    if not rows:
        return None
    known, answers = {problem.id: problem for problem in problems}, [problem.answer for problem in problems]
    listing = [row for row in rows if _lists_candidates(row.text[row.grade.answer_start :], known[row.problem_id], answers)]
    what = "successes that list several answers"
    check = check_share("validity: successes that list candidates", len(listing), len(rows), thresholds.max_listing, what)
    if check.outcome is not Outcome.NOT_MET:
        return check, []
    text = (
        f"{check.estimate:.0%} of successes list several answers, and the verifier accepts such a list, e.g. {quoted(listing[0].text)} for problem "
        f"{listing[0].problem_id}: use select: only with a regex, or the verifier number or choice"
    )
    return check, [Failure(ValidityCode.ACCEPTS_CANDIDATES, text)]


def _lists_candidates(text: str, problem: Problem, answers: Sequence[str]) -> bool:
    """Return whether a text lists the right answer beside others of its kind."""
    parts = [part.strip(" .:()[]\"'") for part in _SEPARATOR.split(text)]
    is_number = _NUMBER.fullmatch(problem.answer.strip()) is not None
    candidates = {part for part in parts if part and (part in answers or (is_number and _NUMBER.fullmatch(part)))}
    return len(candidates) >= _SEVERAL and any(same_answer(part, one) for part in candidates for one in problem.accepted_answers)


def check_contradiction(
    behavior: Behavior, thresholds: Thresholds, counts: SamplingMeasurement, paths: Sequence[PathScore]
) -> Checked | None:
    """Check that there are as many successes as the likelihood of the reference paths allows; None where that is not known.

    A path of probability p is sampled n p times in n samples on average, and is right. So few successes as there are have at most the probability that
    the Poisson distribution with the sum of these means gives them.

    Args:
        behavior: What was measured.
        thresholds: Of the verdict.
        counts: What was counted.
        paths: Reference paths with their likelihood.
    """
    if not behavior.sampling.samples_the_policy or not paths:
        return None
    places = {identifier: place for place, identifier in enumerate(counts.problem_ids)}
    likely = np.zeros(len(places))
    distinct = {(path.problem_id, path.token_ids): path for path in paths if path.problem_id in places}
    for path in distinct.values():
        fits = len(path.token_ids) <= behavior.sampling.max_tokens
        if fits and np.isfinite(path.policy_logprobs).all():
            likely[places[path.problem_id]] += np.exp(path.policy_logprobs.sum(dtype=np.float64))
    expected, seen = float((counts.num_samples * likely.clip(max=1.0)).sum()), int(counts.num_correct.sum())
    chance, n = counted(float(pdtr(seen, expected))), int(counts.num_samples.sum())
    what = "probability of at most as many successes as there are, given the likelihood of the reference paths"
    check = check_estimate(CONTRADICTION, ">=", chance, thresholds.contradiction, n=n, what=what, unit="samples")
    if check.outcome is not Outcome.NOT_MET:
        return check, []
    text = (
        f"the reference paths are so likely that {expected:.0f} of {n} samples should be such a path, and {seen} are right: compare samples with "
        "references in the report, and repair what ends or reads the samples (sampling.stop, sampling.max_tokens, the verifier)"
    )
    return check, [Failure(ValidityCode.CONTRADICTION, text)]


def spread_samples(samples: SampledBehavior, which: Bools) -> list[Rollout]:
    """Return up to 256 samples, not greedy ones, that are spread over all of a kind.

    Args:
        samples: All of them.
        which: [samples] those of the kind.
    """
    rollouts = samples.rollouts
    found = np.flatnonzero(which & ~rollouts.greedy & (rollouts.places([problem.id for problem in samples.problems]) >= 0))
    if len(found) > _MOST_READ:
        found = found[np.linspace(0, len(found) - 1, _MOST_READ).astype(int)]
    return rollouts.rows(found)
