"""From measurements to a diagnosis: what binds, how sure that is, what would decide it, and which stage to run.

Everything here is a pure function of what was measured. `measure.label_posterior` says which label is most probable and how sure that is.
Failed validity checks, a lenient reading that changes the label, and greedy decoding that masters the behavior come first, then the
evidence of further probes. Every label has a confidence of its own making: that of the checks, of both readings, of both ways of decoding, or
of the evidence. Under `Thresholds.confidence` the verdict is `inconclusive`, with the samples that should decide it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr, ndtri

from posttrain.analysis.stats import FloatArray, mean_interval
from posttrain.diagnose.decide.checks import VerdictChecks, check_measurements, label_problems, pass_at_k_curve
from posttrain.diagnose.decide.evidence import Measurements, share_with_evidence, weigh_evidence
from posttrain.diagnose.decide.power import what_settles
from posttrain.diagnose.decide.routes import LEAST_SIGNAL, ROLE_OF, LearningSignal, Situation, learning_signal, name_stage
from posttrain.diagnose.decide.utility import Offer
from posttrain.diagnose.decide.words import VerdictFacts, write_caveats, write_invalid, write_verdict
from posttrain.diagnose.measure.label_posterior import (
    BEHAVIOR_LABELS,
    PROBLEM_LABELS,
    LabelPosterior,
    label_posterior,
    posterior_of,
)
from posttrain.diagnose.measure.sample_checks import UNPARSED
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Check, Diagnosis, Finding, Note, Outcome, PlannedPart, SamplingMeasurement, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledLabel:
    """The label that the samples alone give."""

    label: Bottleneck
    confidence: float
    most_likely: Bottleneck | None = None
    """Where the label is `inconclusive`."""
    undecided: str = ""
    """Why it is `inconclusive`, in words."""
    lenient: Bottleneck | None = None
    """What a lenient reading gives, where that is why the label is `format`."""
    shares: Mapping[Bottleneck, float] = field(default_factory=dict)
    """Posterior probability of each label that the evidence of a probe can replace."""


def diagnose_behavior(
    measured: Measurements, *, thresholds: Thresholds, available: frozenset[Need], seed: int, retained: bool = False
) -> Diagnosis:
    """Decide what binds one behavior.

    Args:
        measured: What was measured.
        thresholds: Every number that the verdict depends on.
        available: What a stage could be fed with.
        retained: Whether there are retention behaviors that a stage could mix in.
        seed: Of the posterior draws; the same measurements and seed give the same diagnosis.
    """
    behavior, counts = measured.behavior, measured.counts
    if not counts.num_samples.sum():
        return _without_samples(measured, available, thresholds)
    epsilon = behavior.measure.epsilon
    posterior = posterior_of(counts, epsilon=epsilon, thresholds=thresholds, seed=seed)
    curve = pass_at_k_curve(measured, posterior, thresholds.level)
    checks = check_measurements(measured, posterior, curve, thresholds)
    sampled = label_samples(measured, posterior, checks, thresholds, seed)
    weighed = weigh_evidence(sampled.label, sampled.confidence, sampled.shares, measured.findings, thresholds)
    label, confidence = weighed.label, weighed.confidence
    if weighed.left_open:
        sampled = replace(sampled, undecided=weighed.left_open, most_likely=None)
    elif label is sampled.label and sampled.shares:
        sampled = with_doubt(sampled, measured.findings, thresholds)
        label, confidence = sampled.label, sampled.confidence
    settles = None
    undecided = weighed.label is Bottleneck.INCONCLUSIVE and confidence < thresholds.confidence
    enough_problems = len(counts.problem_ids) >= thresholds.fewest_problems  # else no samples of these decide
    if undecided and enough_problems and measured.shows_support:
        settles = what_settles(posterior, counts, epsilon=epsilon, thresholds=thresholds, cost=measured.cost, seed=seed)
    signal = learning_signal(posterior, behavior.measure.group_size, thresholds.level)
    labels = _labels_to_train(weighed.trains_as or label, sampled, posterior, measured.findings)
    situation = Situation(
        # What guessing explains is no measurement of a capability: the problems are to be repaired.
        label=Bottleneck.INVALID if weighed.left_open else label,
        posterior=labels,
        pass_1=float(posterior.mean.mean()),
        greedy_gain=_greedy_gain(counts, posterior),
        offer=_offer(measured, available, retained, signal),
        measured=_found_of_stages(measured, signal),
    )
    stage = name_stage(situation, thresholds)
    probabilities = posterior.mixture.interval_probabilities([epsilon, thresholds.mastered])
    plan = _plan(situation, counts.problem_ids, probabilities, thresholds) if label is Bottleneck.MIXED else ()
    return Diagnosis(
        name=behavior.name,
        purpose=behavior.purpose,
        bottleneck=label,
        confidence=confidence,
        leans_to=sampled.most_likely if label is Bottleneck.INCONCLUSIVE else None,
        role=ROLE_OF[label],
        shares={one.value: float(share) for one, share in zip(PROBLEM_LABELS, probabilities.mean(axis=0), strict=True)},
        stage=stage,
        plan=plan,
        checks=(*checks.shown, *measured.validity.checks),
        pass_at_k=curve,
        problems=label_problems(measured, posterior, probabilities, thresholds),
        settles_with=settles,
        cost=measured.cost,
        caveats=write_caveats(measured, label, sampled.lenient, checks, thresholds),
        sentence=write_verdict(
            behavior.name,
            VerdictFacts(
                label=label,
                confidence=confidence,
                checks=checks,
                stage=stage,
                most_likely=sampled.most_likely,
                undecided=sampled.undecided,
                plan=plan,
                failures=measured.validity.failures,
            ),
        ),
        contributions=weighed.contributions,
    )


def with_doubt(sampled: SampledLabel, findings: Sequence[Finding], thresholds: Thresholds) -> SampledLabel:
    """Return the label where evidence that is not sure enough to decide is doubt all the same: `inconclusive` where it leaves too little.

    Args:
        sampled: What the samples say, of labels that evidence can replace.
        findings: Of the further probes.
        thresholds: How sure a label must be.
    """
    shares = share_with_evidence(sampled.shares, findings)
    likeliest = max(shares, key=lambda one: shares[one])
    if shares.get(sampled.label, 0.0) >= min(sampled.confidence, thresholds.confidence):
        return sampled
    open_ = " or ".join(one for one, share in shares.items() if share > 1.0 - thresholds.confidence)
    what = "samples do" if sampled.label is Bottleneck.INCONCLUSIVE else "evidence does"
    detail = f"the {what} not decide the label ({open_ or likeliest})"
    return replace(_undecided(likeliest, shares[likeliest], detail), shares=sampled.shares)


def _greedy_gain(counts: SamplingMeasurement, posterior: LabelPosterior) -> float:
    """Return by how much greedy decoding is better than sampling; 0 without greedy samples."""
    known = np.isfinite(counts.greedy_correct)
    return float(counts.greedy_correct[known].mean() - posterior.mean.mean()) if known.any() else 0.0


def _labels_to_train(
    label: Bottleneck, sampled: SampledLabel, posterior: LabelPosterior, findings: Sequence[Finding]
) -> dict[Bottleneck, float]:
    """Return the probability of each label by which a stage is chosen; empty where the samples say nothing about it."""
    if label is not sampled.label or label in (Bottleneck.FORMAT, Bottleneck.DECODING):
        return {label: 1.0}
    shares = posterior.training_shares if sampled.shares else {}
    return share_with_evidence(shares, findings) if label is Bottleneck.INCONCLUSIVE else shares


def _found_of_stages(measured: Measurements, signal: LearningSignal) -> dict[str, str]:
    """Return what was measured about each stage, in words."""
    found = {name: words for finding in measured.findings for name, words in finding.of_stages.items()}
    return found | {
        name: "; ".join([*([found[name]] if name in found else []), signal.words])
        for name, stage in STAGES.items()
        if stage.learns_from_successes
    }


def _plan(situation: Situation, ids: Sequence[str], probabilities: FloatArray, thresholds: Thresholds) -> tuple[PlannedPart, ...]:
    """Return which problems of a mixed behavior go to which stage.

    Args:
        situation: What is known of the behavior as a whole.
        ids: [P]
        probabilities: [P, 3] posterior probability of each of `PROBLEM_LABELS`.
        thresholds: Which share makes a part.
    """
    likeliest = probabilities.argmax(axis=1)
    parts = []
    for index, label in enumerate(PROBLEM_LABELS):
        share = float(probabilities[:, index].mean())
        if share >= thresholds.mixed_share:
            alone = replace(situation, label=label, posterior={label: 1.0})
            problems = tuple(one for one, found in zip(ids, likeliest, strict=True) if found == index)
            parts.append(PlannedPart(label=label, share=share, stage=name_stage(alone, thresholds).name, problems=problems))
    return tuple(parts)


def _offer(measured: Measurements, available: frozenset[Need], retained: bool, signal: LearningSignal) -> Offer:
    """Return what stages can be given, without those that would learn nothing."""
    references = [problem.references for problem in measured.behavior.split(Split.TRAIN) if problem.references]
    offered = set(available)
    if Need.VERIFIER in available:
        offered.add(Need.PAIRS)  # right and wrong samples
        if any(len(path.steps) > 1 for paths in references for path in paths):
            offered.add(Need.STEP_FEEDBACK)
    silent = signal.share.estimate < LEAST_SIGNAL
    without_signal = {
        stage.name: f"too seldom to learn from: {signal.words}"
        for stage in STAGES.values()
        if silent and stage.learns_from_successes
    }
    for finding in measured.findings:
        without_signal |= finding.rules_out
    return Offer(needs=frozenset(offered), num_references=len(references), retained=retained, without_signal=without_signal)


def label_samples(
    measured: Measurements, posterior: LabelPosterior, checks: VerdictChecks, thresholds: Thresholds, seed: int
) -> SampledLabel:
    """Return the label that the samples alone give.

    Args:
        measured: What was measured.
        posterior: What the counts say.
        checks: The checks of the verdict.
        thresholds: How sure a label must be.
        seed: Of the posterior draws.
    """
    counts, epsilon = measured.counts, measured.behavior.measure.epsilon
    label, confidence = posterior.label, posterior.confidence
    not_met = [check for check in measured.validity.checks if check.outcome is Outcome.NOT_MET]
    broken = [check for check in not_met if check.name != UNPARSED]
    if broken:
        return SampledLabel(label=Bottleneck.INVALID, confidence=max(probability_beyond(check) for check in broken))
    lenient = None if label is Bottleneck.MASTERED else _lenient_label(counts, posterior, epsilon, thresholds, seed)
    if not_met and lenient is None:
        # Most samples say nothing of what the model can do, unless a lenient reading reads them.
        return SampledLabel(label=Bottleneck.INVALID, confidence=max(probability_beyond(check) for check in not_met))
    if len(bounds := _labels_under_bounds(counts, epsilon, thresholds, seed)) > 1:
        detail = (
            f"{int(counts.num_missing.sum())} samples are missing, and the label depends on them ({' or '.join(sorted(bounds))})"
        )
        return _undecided(label, confidence, detail)
    if not measured.independent and label is not Bottleneck.MASTERED:
        return _undecided(label, confidence, _why_not_independent(measured))
    is_mastered = label is Bottleneck.MASTERED and confidence >= thresholds.confidence
    if (num := len(counts.problem_ids)) < thresholds.fewest_problems and not is_mastered:
        detail = f"{num} problem{'s' * (num > 1)} cannot support advice, {thresholds.fewest_problems} of one kind are the fewest that can"
        return _undecided(label, min(confidence, 1.0 - 0.5**num), detail)
    if lenient is not None:
        return SampledLabel(label=Bottleneck.FORMAT, confidence=lenient[1], lenient=lenient[0])
    if label is not Bottleneck.MASTERED and checks.greedy.outcome is Outcome.MET:
        confidence = (1.0 - posterior.shares[Bottleneck.MASTERED]) * probability_beyond(checks.greedy)
        if confidence < thresholds.confidence:
            return _undecided(Bottleneck.DECODING, confidence, "greedy decoding masters it, and the samples may as well")
        return SampledLabel(label=Bottleneck.DECODING, confidence=confidence)
    if label is Bottleneck.MISSING_SUPPORT and (share := _share_in_support(measured, epsilon)) > thresholds.improbable_path:
        detail = f"{share:.0%} of the reference paths are likelier than epsilon, so they are not out of reach: look for what ends or misreads them"
        return _undecided(label, confidence, detail)
    if not measured.shows_support and _rests_on_missing_support(posterior, epsilon, thresholds):
        return _undecided(label, confidence, f"{_why_not_support(measured)}, so a missing success says nothing about support")
    if confidence < thresholds.confidence:
        open_ = " or ".join(one for one, share in posterior.shares.items() if share > 1.0 - thresholds.confidence)
        undecided = _undecided(label, confidence, f"the samples do not decide the label ({open_ or label})")
        return replace(undecided, shares=posterior.shares)
    return SampledLabel(label=label, confidence=confidence, shares=posterior.shares)


def probability_beyond(check: Check) -> float:
    """Return the probability that a number lies on the side of its threshold on which its estimate lies.

    By the half of its interval that faces the threshold, as that of a normal distribution.
    """
    above = check.estimate >= check.threshold
    half = check.estimate - check.low if above else check.high - check.estimate
    return _probability_within(abs(check.estimate - check.threshold), half)


def _probability_within(distance: float, half: float) -> float:
    """Return the probability that a normal number lies less than `distance` beyond its mean to a side, where 97.5 % lie less than `half` beyond."""
    return float(ndtr(ndtri(0.975) * distance / half)) if half > 0.0 else float(distance >= 0.0)


def _rests_on_missing_support(posterior: LabelPosterior, epsilon: float, thresholds: Thresholds) -> bool:
    """Return whether the label is missing support, or a mixture that problems out of support are a part of."""
    if posterior.label is not Bottleneck.MIXED:
        return posterior.label is Bottleneck.MISSING_SUPPORT
    shares = posterior.mixture.interval_probabilities([epsilon, thresholds.mastered]).mean(axis=0)
    return bool(shares[PROBLEM_LABELS.index(Bottleneck.MISSING_SUPPORT)] >= thresholds.mixed_share)


def _share_in_support(measured: Measurements, epsilon: float) -> float:
    """Return the share of the reference paths that are sampled at a rate of at least epsilon; 0 where none is scored."""
    return 0.0 if measured.paths is None else measured.paths.share_above(epsilon)


def _why_not_independent(measured: Measurements) -> str:
    if measured.behavior.sampling.greedy:
        return "at temperature 0 a problem has one outcome, which does not tell what sampling reaches; sample at temperature 1"
    return "the samples of a problem are not independent (temperature 0 or duplicates)"


def _why_not_support(measured: Measurements) -> str:
    if not measured.behavior.sampling.known:
        return "how the samples were taken is not known (temperature, truncation)"
    return "the sampler was truncated or not at temperature 1"


def _undecided(label: Bottleneck, confidence: float, detail: str) -> SampledLabel:
    return SampledLabel(label=Bottleneck.INCONCLUSIVE, confidence=confidence, most_likely=label, undecided=detail)


def _labels_under_bounds(counts: SamplingMeasurement, epsilon: float, thresholds: Thresholds, seed: int) -> set[str]:
    """Return the labels when all missing samples fail and when all succeed."""
    if not counts.num_missing.any():
        return set()
    total = counts.num_samples + counts.num_missing
    return {
        label_posterior(total, correct, epsilon=epsilon, thresholds=thresholds, groups=counts.groups, seed=seed).label.value
        for correct in (counts.num_correct, counts.num_correct + counts.num_missing)
    }


def _lenient_label(
    counts: SamplingMeasurement, strict: LabelPosterior, epsilon: float, thresholds: Thresholds, seed: int
) -> tuple[Bottleneck, float] | None:
    """Return the label under the lenient reading, and how sure it is that format is what binds; None where it is not.

    It binds where the lenient reading gives a better label, or where it finds most of what fails right.
    """
    if (counts.num_lenient_correct == counts.num_correct).all():
        return None
    lenient = label_posterior(
        counts.num_samples, counts.num_lenient_correct, epsilon=epsilon, thresholds=thresholds, groups=counts.groups, seed=seed
    )
    chances = [[one.shares[label] for label in BEHAVIOR_LABELS] for one in (strict, lenient)]
    better = sum(chances[0][i] * sum(chances[1][i + 1 :]) for i in range(len(BEHAVIOR_LABELS)))
    sure = max(better if lenient.label is not strict.label else 0.0, _probability_most_is_format(counts))
    return None if sure < thresholds.confidence else (lenient.label, sure)


def _probability_most_is_format(counts: SamplingMeasurement) -> float:
    """Return the probability that more than half of the failures are right under the lenient reading."""
    samples = np.where(counts.num_samples > 0, counts.num_samples, np.nan)
    right, read = counts.num_correct / samples, counts.num_lenient_correct / samples
    surplus = mean_interval(
        (read - right) - (1.0 - read), counts.groups, low=-1.0
    )  # right when read leniently, less wrong either way
    return _probability_within(surplus.estimate, surplus.estimate - surplus.low)


def _without_samples(measured: Measurements, available: frozenset[Need], thresholds: Thresholds) -> Diagnosis:
    """Return the diagnosis of a behavior whose verifier failed the self-test, or whose samples are all missing."""
    behavior, validity = measured.behavior, measured.validity
    return Diagnosis(
        name=behavior.name,
        purpose=behavior.purpose,
        bottleneck=Bottleneck.INVALID,
        confidence=1.0,
        stage=name_stage(Situation(label=Bottleneck.INVALID, offer=Offer(needs=available)), thresholds),
        checks=validity.checks,
        cost=measured.cost,
        caveats=tuple(Note("validity", note) for note in validity.notes),
        sentence=write_invalid(behavior.name, validity.failures),
    )
