"""What was lost and how far the policy moved: numbers, rows, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np

from posttrain.analysis.stats import mean_interval, t_interval
from posttrain.diagnose.probes.base import Finding, LabelEvidence, MeasuredBehavior, Note
from posttrain.diagnose.probes.drift.answers import ScoredAnswers, means_by_problem
from posttrain.diagnose.probes.drift.rates import RatesBeforeAndNow
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Estimate


class DriftOutcome(StrEnum):
    """What became of an earlier policy's successes."""

    LOST = "lost"
    """Surely most of what is not mastered was lost."""
    SOME_FELL = "some_fell"
    """The tests find problems whose success rate fell."""
    NONE_FELL = "none_fell"
    UNKNOWN = "unknown"
    """Nothing is known of the earlier policy's success."""


class ModelsGiven(StrEnum):
    """Which models there are to say how likely an answer is."""

    NONE = "none"
    """Two runs alone."""
    POLICY = "policy"
    """The policy, and a run of the earlier one."""
    BOTH = "both"


def make_finding(
    measured: MeasuredBehavior,
    thresholds: Thresholds,
    rates: RatesBeforeAndNow,
    forward: ScoredAnswers | None = None,
    reverse: ScoredAnswers | None = None,
    *,
    models: ModelsGiven,
    plain: bool,
) -> Finding:
    """Return what was lost and how far the policy moved.

    Args:
        measured: What the samples say.
        thresholds: Every number that decides.
        rates: Success before and now.
        forward: Answers of the earlier policy under both.
        reverse: Answers of the policy under both.
        models: Which models were asked.
        plain: Whether both policies were sampled at temperature 1 without truncation.
    """
    count, groups, level = len(measured.problems), measured.counts.groups, thresholds.level
    numbers: dict[str, Estimate] = {}
    forward_kl = np.full(count, np.nan)
    # Draws from a cooled or truncated sampler are no draws from the policy, and their mean is no KL.
    for name, answers in (("forward", forward if models is ModelsGiven.BOTH else None), ("reverse", reverse)):
        if answers is None or not plain:
            continue
        change = answers.before - answers.after if name == "forward" else answers.after - answers.before
        per_sample = means_by_problem(answers.place, change, None, count)
        forward_kl = per_sample if name == "forward" else forward_kl
        values = {"sample": per_sample}
        if answers.same_tokens:
            weights = answers.num_tokens.astype(np.float64)
            values = {"token": means_by_problem(answers.place, change, weights, count), **values}
        for unit, means in values.items():
            interval = t_interval(means, groups, level=level, method="Monte Carlo, t over problems")
            numbers[f"{name} KL per {unit}"] = Estimate.of(interval)

    change, kept = np.full(count, np.nan), np.full(count, np.nan)
    if forward is not None:
        gain, place = (forward.after - forward.before)[forward.right], forward.place[forward.right]
        change = means_by_problem(place, gain, None, count)
        kept = means_by_problem(place, (gain >= np.log(measured.behavior.measure.epsilon)).astype(np.float64), None, count)
        numbers["share of earlier right answers still likely"] = Estimate.of(mean_interval(kept, groups, level=level))
    numbers["problems lost"] = rates.num_lost
    numbers["pass@1 before"] = Estimate.of(rates.before.pass_at_ks([1], level=level)[0])
    numbers["pass@1 now"] = Estimate.of(measured.posterior.mixture.pass_at_ks([1], level=level)[0])
    rows = tuple(
        {
            "id": problem.id,
            "p_before": _json(rates.p_before[i]),
            "p_after": _json(rates.p_after[i]),
            "forward_kl": _json(forward_kl[i]),
            "change": _json(change[i]),
            "lost": bool(rates.fell[i]),
        }
        for i, problem in enumerate(measured.problems)
    )
    problems = {
        problem.id: {
            "support_change": rates.states[i],
            "fell": bool(rates.fell[i]),
            "probability_lost": float(rates.lost[i]),
            "earlier_right_answers_still_likely": _json(kept[i]),
        }
        for i, problem in enumerate(measured.problems)
    }
    evidence = _evidence(rates, plain, count, thresholds.evidence)
    return Finding(
        outcome=_outcome(rates, evidence, thresholds.confidence),
        summary=_summary(numbers, rates),
        numbers=numbers,
        rows=rows,
        problems=problems,
        evidence=evidence,
        notes=Note.all(_notes(models, forward, plain)),
    )


def _json(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _outcome(rates: RatesBeforeAndNow, evidence: Sequence[LabelEvidence], confidence: float) -> DriftOutcome:
    """Say what became of the earlier policy's successes."""
    if np.isnan(rates.p_before).all():
        return DriftOutcome.UNKNOWN
    if evidence and evidence[0].confidence >= confidence:
        return DriftOutcome.LOST
    return DriftOutcome.SOME_FELL if rates.fell.any() else DriftOutcome.NONE_FELL


def _summary(numbers: Mapping[str, Estimate], rates: RatesBeforeAndNow) -> str:
    known = ~np.isnan(rates.p_before)
    if not known.any():
        return "Nothing is known of the earlier policy's success on these problems."
    before, now = float(rates.p_before[known].mean()), float(rates.p_after[known].mean())
    said = f"{int(rates.fell.sum())} of {int(known.sum())} problems fell (mean success {before:.2f} before, {now:.2f} now)"
    likely = numbers.get("share of earlier right answers still likely")
    if likely is not None and not np.isnan(likely.estimate):
        said += f"; {likely.estimate:.0%} of the earlier right answers are still likely"
    said += "."
    if "forward KL per sample" in numbers:
        said += f" On these prompts the policy has moved {numbers['forward KL per sample'].estimate:.3g} nats a sample"
        rate = numbers.get("forward KL per token")
        said += " (forward KL)." if rate is None else f", {rate.estimate:.3g} a token (forward KL)."
    return said


def _evidence(rates: RatesBeforeAndNow, plain: bool, count: int, least: float) -> tuple[LabelEvidence, ...]:
    """Return evidence for attrition, where it is more likely than not and the tests find a fall; under plain sampling only."""
    if not plain or not rates.fell.any() or rates.confidence <= least:
        return ()
    because = (
        f"most of what is not mastered was reachable before and keeps less than half of its success rate; "
        f"{int(rates.fell.sum())} of {count} problems fell under a test"
    )
    instead_of = (Bottleneck.MISSING_SUPPORT, Bottleneck.MIXED, Bottleneck.POOR_CHOICE)
    return (LabelEvidence(label=Bottleneck.ATTRITION, instead_of=instead_of, confidence=rates.confidence, because=because),)


def _notes(models: ModelsGiven, forward: ScoredAnswers | None, plain: bool) -> dict[str, str]:
    notes: dict[str, str] = {}
    if not plain and models is ModelsGiven.NONE:
        notes["sampling_not_plain"] = (
            "At least one of the two runs is not known to be sampled at temperature 1 without truncation: no statement about support, only how success changed."
        )
    elif not plain:
        notes["deployment_policy"] = (
            "Sampled with a temperature or a truncation of its own: no KL and no statement about support, only how success changed."
        )
    if forward is not None and not forward.same_tokens:
        notes["tokenizers_differ"] = (
            "The two checkpoints cut text into tokens differently: likelihoods are of whole texts, cut anew by each of them."
        )
    if models is ModelsGiven.NONE:
        notes["no_model"] = (
            "Decided without a model: whether the earlier right answers are still likely, and how far the policy has moved (KL), was not measured; "
            "posttrain diagnose MODEL BEHAVIOR with --before or --earlier measures it."
        )
    if models is ModelsGiven.POLICY:
        notes["no_earlier_checkpoint"] = (
            "Only an earlier run was given: likelihoods before are its sampler's own; a KL needs the earlier checkpoint itself (--earlier)."
        )
    if forward is not None and not forward.right.any():
        notes["no_right_answers_before"] = (
            "The earlier policy has no right answer among these samples, so there is none whose likelihood could have fallen."
        )
    if models is ModelsGiven.BOTH and plain:
        notes["other_behaviors_not_measured"] = (
            "A small KL on these prompts does not show that nothing was forgotten elsewhere: measure a retention behavior too."
        )
    return notes
