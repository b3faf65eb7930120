"""What ladders and placebos say: the share of problems that a prefix makes reachable, rows, and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import scipy

from posttrain.analysis.stats import mean_interval
from posttrain.diagnose.probes.base import Finding, LabelEvidence, Note, ProbeContext
from posttrain.diagnose.probes.prefix_ladder.ladder import MAX_RUNGS, Ladder, PrefixStatus
from posttrain.diagnose.probes.prefix_ladder.placebo import Placebo, gain_is_own
from posttrain.diagnose.probes.prefix_ladder.search import AGAIN, MOST_SAMPLES, NOTHING, OTHER, REFERENCE, WRONG
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Estimate

MOST_PROBLEMS = 24
"""Ladders of one behavior: a share over 24 problems is known to ± .2, about what naming a stage takes."""
_NUM_SHARES = 4096


class PrefixLadderOutcome(StrEnum):
    """Whether problems out of reach are solved from a prefix of a reference path."""

    REACHABLE = "reachable"
    """Surely most of them are, and no placebo helps as much."""
    PLACEBO_HELPS = "placebo_helps"
    """Surely most of them are, but a prefix that is not the problem's own helps as much."""
    UNREACHABLE = "unreachable"
    """Surely most of them are not."""
    NO_PREFIX = "no_prefix"
    """No problem has a prefix that may be given: each path begins with its answer."""
    UNDECIDED = "undecided"
    NOT_MEASURED = "not_measured"


_NO_PREFIX = "Not applicable: each reference path begins with its answer, so none has a prefix that may be given."
_WITHOUT_SIGNAL = {
    PrefixLadderOutcome.UNREACHABLE: "no prefix of a reference path short of its answer helps",
    PrefixLadderOutcome.NO_PREFIX: "no reference path has a prefix short of its answer",
}
"""Outcome → why a stage that learns behind prefixes would learn nothing."""


def make_finding(
    context: ProbeContext, ladders: Sequence[Ladder], candidates: int, blocked: int, placebos: Sequence[Placebo]
) -> Finding:
    """Return what ladders and placebos say.

    Args:
        context: Of the probe.
        ladders: All ladders that were started.
        candidates: How many problems could have been probed.
        blocked: How many problems had no prefix that may be given.
        placebos: Of some ladders.
    """
    thresholds = context.thresholds.prefix_ladder
    probed = [ladder for ladder in ladders if ladder.status is not PrefixStatus.NOT_PROBED]
    out = [ladder for ladder in probed if ladder.out_of_support]
    share, above_half = share_reachable([ladder.bayes_factor for ladder in out])
    chances = {
        condition: gain_is_own(placebos, condition, thresholds.placebo_gain, context.generator(condition))
        for condition in (OTHER, WRONG)
    }
    needed = _median([ladder.fraction(ladder.needed) for ladder in out or probed if ladder.status is PrefixStatus.FOUND])
    numbers = {"share reachable with a prefix": share, "median fraction needed": needed, **_placebo_numbers(placebos, context)}
    because = explain_reach(out, needed, placebos, thresholds.sufficient)
    confidence = above_half * min(chances.values())
    evidence: tuple[LabelEvidence, ...] = ()
    if placebos and confidence > context.thresholds.evidence and context.behavior.sampling.samples_the_policy:
        evidence = (
            LabelEvidence(
                label=Bottleneck.GUIDED_ONLY, instead_of=(Bottleneck.MISSING_SUPPORT,), confidence=confidence, because=because
            ),
        )
    outcome = _outcome(probed, evidence, above_half, min(chances.values()), context.thresholds)
    if blocked and not ladders:
        outcome = PrefixLadderOutcome.NO_PREFIX
    return Finding(
        outcome=outcome,
        summary=_NO_PREFIX
        if outcome is PrefixLadderOutcome.NO_PREFIX
        else write_summary(probed, out, share, because, thresholds.sufficient),
        numbers={name: value for name, value in numbers.items() if np.isfinite(value.estimate)},
        rows=(*_reference_rows(probed, context), *_placebo_rows(placebos, context)),
        problems=_per_problem(context, ladders),
        evidence=evidence,
        rules_out={"guided_grpo": _WITHOUT_SIGNAL[outcome]} if outcome in _WITHOUT_SIGNAL else {},
        notes=tuple(write_notes(context, ladders, probed, candidates, blocked, placebos, chances)),
    )


def _outcome(
    probed: Sequence[Ladder], evidence: Sequence[LabelEvidence], above_half: float, own_gain: float, thresholds: Thresholds
) -> PrefixLadderOutcome:
    """Say whether problems out of reach are solved from a prefix.

    Args:
        probed: Ladders with samples.
        evidence: What the finding says to the verdict.
        above_half: Probability that more than half of the problems are reachable.
        own_gain: Probability that no placebo helps as much.
        thresholds: When that is sure.
    """
    sure = thresholds.confidence
    if not probed:
        return PrefixLadderOutcome.NOT_MEASURED
    if evidence and evidence[0].confidence >= sure:
        return PrefixLadderOutcome.REACHABLE
    if above_half >= sure and own_gain < 1 - sure:
        return PrefixLadderOutcome.PLACEBO_HELPS
    return PrefixLadderOutcome.UNREACHABLE if above_half <= 1 - sure else PrefixLadderOutcome.UNDECIDED


def share_reachable(bayes_factors: Sequence[float]) -> tuple[Estimate, float]:
    """Return the share of problems that a prefix makes reachable, and the probability that it is more than half.

    The share has a Jeffreys prior, and each probed problem is reachable with the share's probability: so what most ladders say also
    counts for those that are undecided. Simulated for this project (3,000 behaviors, 12 of 48 problems probed): where it gave the label a
    probability of .05–.2, .4–.6, .6–.8 and above .95, that was right in .08, .50, .71 and .995 of behaviors.

    Args:
        bayes_factors: Per probed problem, how many times as likely its samples are if some prefix suffices as if none does.
    """
    method = "posterior of the share, Jeffreys prior"
    if not bayes_factors:
        return Estimate(estimate=np.nan, low=np.nan, high=np.nan, method=method), 0.0
    shares = np.sin(np.pi / 2 * (np.arange(_NUM_SHARES) + 0.5) / _NUM_SHARES) ** 2  # of equal prior mass
    ratio = np.clip(np.array(bayes_factors), 1e-9, 1e9)[:, None]
    log_weight = np.log(shares * ratio / (1 + ratio) + (1 - shares) / (1 + ratio)).sum(axis=0)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    low, high = (float(shares[min(int(np.searchsorted(np.cumsum(weight), q)), _NUM_SHARES - 1)]) for q in (0.025, 0.975))
    return Estimate(estimate=float(weight @ shares), low=low, high=high, method=method), float(weight[shares > 0.5].sum())


def _median(values: Sequence[float]) -> Estimate:
    """Return the median, with the order statistics that hold the population's in 95 % of draws; all of the range where there are few."""
    method = "order statistics over problems"
    if not values:
        return Estimate(estimate=np.nan, low=np.nan, high=np.nan, method=method)
    ordered = sorted(values)
    edge = max(0, int(scipy.stats.binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return Estimate(estimate=float(np.median(ordered)), low=ordered[edge], high=ordered[-1 - edge], method=method)


def _placebo_numbers(placebos: Sequence[Placebo], context: ProbeContext) -> dict[str, Estimate]:
    names = {
        "success with nothing given": NOTHING,
        "success from the prefix that suffices": AGAIN,
        "success from another problem's prefix": OTHER,
        "success after a wrong step": WRONG,
    }
    return {name: _mean_rate(placebos, condition, context) for name, condition in names.items()} if placebos else {}


def _mean_rate(placebos: Sequence[Placebo], condition: str, context: ProbeContext) -> Estimate:
    rates = [right / num if num else np.nan for num, right in (one.counts[condition] for one in placebos)]
    interval = mean_interval(rates, [one.ladder.group for one in placebos], level=context.thresholds.level)
    return Estimate.of(interval)


def _reference_rows(probed: Sequence[Ladder], context: ProbeContext) -> list[dict[str, Any]]:
    """Return the mean of the problems' rising curves at eighths of the path, as far as half of the problems may be given."""
    if not probed:
        return []
    furthest = float(np.median([ladder.fraction(len(ladder.rungs) - 1) for ladder in probed]))
    fractions = np.array(sorted({*(i / MAX_RUNGS for i in range(MAX_RUNGS) if i / MAX_RUNGS < furthest - 0.02), furthest}))
    curves = np.stack([ladder.curve(fractions) for ladder in probed])
    groups = [ladder.group for ladder in probed]
    # Samples count at the fraction that is nearest to where they were taken.
    num, right = np.zeros(len(fractions), np.int64), np.zeros(len(fractions), np.int64)
    for ladder in probed:
        num[0] += ladder.base[0]
        right[0] += ladder.base[1]
        for rung in range(len(ladder.rungs)):
            nearest = int(np.abs(fractions - ladder.fraction(rung)).argmin())
            num[nearest] += ladder.num[rung]
            right[nearest] += ladder.right[rung]
    intervals = [mean_interval(column, groups, level=context.thresholds.level) for column in curves.T]
    return [
        _row(float(fraction), REFERENCE, int(n), int(c), interval.estimate, interval.low, interval.high)
        for fraction, n, c, interval in zip(fractions, num, right, intervals, strict=True)
    ]


def _placebo_rows(placebos: Sequence[Placebo], context: ProbeContext) -> list[dict[str, Any]]:
    """Return one row per condition, at the mean fraction that was given."""
    if not placebos:
        return []
    fraction = float(np.mean([one.fraction for one in placebos]))
    rows = []
    for condition in (AGAIN, OTHER, WRONG):
        num, right = np.array([one.counts[condition] for one in placebos]).sum(axis=0)
        rate = _mean_rate(placebos, condition, context)
        rows.append(_row(fraction, condition, int(num), int(right), rate.estimate, rate.low, rate.high))
    return rows


def _row(fraction: float, condition: str, n: int, c: int, rate: float, low: float, high: float) -> dict[str, Any]:
    return {"fraction": round(fraction, 4), "condition": condition, "n": n, "c": c, "rate": rate, "low": low, "high": high}


def _per_problem(context: ProbeContext, ladders: Sequence[Ladder]) -> dict[str, dict[str, Any]]:
    found = {ladder.problem.id: ladder for ladder in ladders}
    found_of: dict[str, dict[str, Any]] = {}
    for problem in context.problems:
        needed: dict[str, Any] = {"status": PrefixStatus.NOT_PROBED.value, "fraction": None, "tokens": None, "step": None}
        found_of[problem.id] = {"prefix_needed": needed}
        if (ladder := found.get(problem.id)) is None:
            continue
        needed["status"] = ladder.status.value
        if ladder.status is PrefixStatus.FOUND:
            rung = ladder.needed
            needed |= {"fraction": ladder.fraction(rung), "tokens": ladder.rungs[rung].tokens, "step": ladder.rungs[rung].step}
        found_of[problem.id]["ladder"] = [
            {"fraction": ladder.fraction(i), "tokens": rung.tokens, "n": int(ladder.num[i]), "c": int(ladder.right[i])}
            for i, rung in enumerate(ladder.rungs)
        ]
    return found_of


def explain_reach(out: Sequence[Ladder], needed: Estimate, placebos: Sequence[Placebo], sufficient: float) -> str:
    """Write how many problems are solved from a prefix, and what placebos do; goes on from "because"."""
    num = sum(ladder.status is PrefixStatus.FOUND for ladder in out)
    words = f"{num} of {len(out)} probed problems out of reach are solved at a rate of at least {sufficient:.0%} from a prefix of a reference path"
    if np.isfinite(needed.estimate):
        words += f" (half of them from {needed.estimate:.0%} of it or less)"
    if placebos:
        again, other, wrong = (pooled_rate(placebos, condition) for condition in (AGAIN, OTHER, WRONG))
        words += f"; success is {again:.0%} from a problem's own prefix, {other:.0%} from another problem's, {wrong:.0%} after a wrong step"
    return words


def pooled_rate(placebos: Sequence[Placebo], condition: str) -> float:
    """Return the success rate over all samples of a condition; NaN without samples."""
    num, right = np.array([one.counts[condition] for one in placebos]).sum(axis=0)
    return float(right / num) if num else np.nan


def write_summary(probed: Sequence[Ladder], out: Sequence[Ladder], share: Estimate, because: str, sufficient: float) -> str:
    """Write the finding in one or two sentences."""
    if not probed:
        return "Not measured: no problem out of reach or unreliable has a reference, or nothing was left of the budget."
    states = [ladder.status for ladder in probed]
    others = f"{states.count(PrefixStatus.NOT_FOUND)} are not solved from any prefix before the answer, {states.count(PrefixStatus.INCONCLUSIVE)} stay undecided"
    if not out:
        return f"{states.count(PrefixStatus.FOUND)} of {len(probed)} unreliable problems have a prefix from which they are solved at a rate of at least {sufficient:.0%}; {others}."
    scope = f"; of all {len(probed)} that were probed" if len(probed) > len(out) else ";"
    return f"{because[0].upper()}{because[1:]}. Share reachable {share.estimate:.0%} [{share.low:.0%}, {share.high:.0%}]{scope} {others}."


def write_notes(
    context: ProbeContext,
    ladders: Sequence[Ladder],
    probed: Sequence[Ladder],
    candidates: int,
    blocked: int,
    placebos: Sequence[Placebo],
    chances: Mapping[str, float],
) -> list[Note]:
    """Return the caveats.

    Args:
        context: Of the probe.
        ladders: All ladders that were started.
        probed: Those with samples.
        candidates: How many problems could have been probed.
        blocked: How many problems had no prefix that may be given.
        placebos: Of some ladders.
        chances: Placebo condition → probability that it helps less than the path itself.
    """
    notes = []
    if candidates > len(ladders) + blocked:
        limit = "the budget allows no more" if len(ladders) < MOST_PROBLEMS else "more would say little more"
        text = f"Of {candidates} problems out of reach or unreliable {len(ladders)} were probed, chosen at random: {limit}."
        notes.append(Note("not_all_probed", text))
    if blocked:
        text = f"{blocked} problems have no ladder: the answer stands at the start of each of their reference paths."
        notes.append(Note("answer_at_the_start", text))
    if len(probed) < len(ladders) or any(
        one.status is PrefixStatus.INCONCLUSIVE and one.num_sampled < MOST_SAMPLES for one in probed
    ):
        notes.append(Note("budget_ended", "The budget ended before every ladder was decided."))
    if placebos:
        notes += [
            Note(
                "placebo_helps",
                f"Not knowledge of the path: {'a prefix of another problem' if condition == OTHER else 'a prefix with a wrong last step'} helps at "
                f"least {context.thresholds.prefix_ladder.placebo_gain:.0%} as much as the right one ({pooled_rate(placebos, condition):.0%} against {pooled_rate(placebos, AGAIN):.0%} of "
                f"samples; the probability that it does not is {chance:.0%}).",
            )
            for condition, chance in chances.items()
            if chance < 0.5
        ]
    elif any(one.status is PrefixStatus.FOUND for one in probed):
        text = "No placebo was sampled (no other path to take one from, or no budget), so the gain is no evidence for a label."
        notes.append(Note("no_placebo", text))
    if probed and not context.behavior.sampling.samples_the_policy:
        text = "Sampled under a deployment policy, which says nothing about support; the gain is no evidence for a label."
        notes.append(Note("deployment_policy", text))
    return notes
