"""From measurements to a diagnosis: what binds, how sure that is, what would settle it, and which stage to run.

`labels` says which state binds and how sure that is; the shares say how mixed the behavior is. Failed validity checks, a lenient
reading that changes the label, and greedy decoding that masters the behavior come first. The label's posterior probability is its
confidence; under `Thresholds.confidence` the verdict is `inconclusive`, with the samples that should settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from posttrain.analysis.stats import FloatArray, Interval, k_grid, mean_interval, pass_at_k
from posttrain.diagnose.decide.power import what_settles
from posttrain.diagnose.decide.routes import ROLE_OF, name_stage
from posttrain.diagnose.measure.label_posterior import (
    PROBLEM_LABELS,
    LabelPosterior,
    label_posterior,
    posterior_of,
    problem_labels,
)
from posttrain.diagnose.measure.validity_checks import UNPARSED
from posttrain.diagnose.stage_catalogue import STAGES, Need
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    Check,
    Contribution,
    ContributionKind,
    Cost,
    Diagnosis,
    Estimate,
    Finding,
    LabelEvidence,
    Outcome,
    PassAtK,
    PathLikelihoodMeasurement,
    Problem,
    ProblemDiagnosis,
    SamplingMeasurement,
    StageAdvice,
    ValidityMeasurement,
    decide,
)

_FEW_DRAWS = 256
"""Posterior draws where only the most probable label is asked for."""
_PRIORITY = (Bottleneck.ATTRITION, Bottleneck.DECODING, Bottleneck.SCAFFOLD_BOUND, Bottleneck.GUIDED_ONLY)
"""Which argument of the probes is heard first: what was there before, then what needs no training, then what a scaffold reaches already,
then what a part of a path does."""


def diagnose_behavior(
    behavior: Behavior,
    problems: Sequence[Problem],
    sampling: SamplingMeasurement,
    validity: ValidityMeasurement,
    paths: PathLikelihoodMeasurement | None,
    *,
    thresholds: Thresholds,
    available: frozenset[Need],
    seed: int,
    cost: Cost,
    findings: Sequence[Finding] = (),
) -> Diagnosis:
    """Decide what binds one behavior.

    Args:
        behavior: What was measured.
        problems: Its measured problems, in the order of `sampling`.
        sampling: Outcomes per problem.
        validity: Whether they can be believed.
        paths: Likelihood of the reference paths, where there are any.
        thresholds: Every number the verdict hangs on.
        available: What a stage could be fed with.
        seed: Of the posterior draws; the same measurements and seed give the same diagnosis.
        cost: What the measurement took, copied into the result.
        findings: Of the further probes, which may say why.
    """
    epsilon = behavior.measure.epsilon
    broken = [c for c in validity.checks if c.outcome is Outcome.NOT_MET and c.name != UNPARSED]
    if not sampling.num_samples.sum():
        return _without_samples(behavior, validity, available, cost)

    known = posterior_of(sampling, epsilon=epsilon, thresholds=thresholds, seed=seed)
    label, confidence = known.label, known.confidence
    caveats = list(validity.notes)
    curve = _pass_at_k(behavior, sampling, known, thresholds)
    checks = _checks(behavior, sampling, known, curve, thresholds)
    greedy = next(c for c in checks if c.name == "greedy pass@1")

    why_open = ""
    bounds = _labels_under_bounds(sampling, epsilon, thresholds, seed)
    if broken:
        # What a check proves broken is broken: the checks' own intervals are the doubt that is left.
        label, confidence = Bottleneck.INVALID, thresholds.level
    elif len(bounds) > 1:
        why_open = f"{int(sampling.num_missing.sum())} samples are missing, and the label depends on them ({' or '.join(sorted(bounds))})"
    elif confidence < thresholds.confidence:
        said = ", ".join(f"{state} {share:.0%}" for state, share in known.shares.items() if share >= 0.01)
        why_open = f"the samples leave the label open ({said})"
    elif label is not Bottleneck.MASTERED and (flipped := _lenient_label(sampling, label, epsilon, thresholds, seed)):
        caveats.append(f"A lenient reading of the same texts gives {flipped}: the answers are there, their format is not.")
        label = Bottleneck.FORMAT
    elif label is Bottleneck.POOR_CHOICE and greedy.outcome is Outcome.MET:
        label = Bottleneck.DECODING
    binding = label
    if why_open:
        label = Bottleneck.INCONCLUSIVE
    if label is Bottleneck.MISSING_SUPPORT and not behavior.sampling.samples_the_policy:
        label, why_open = (
            Bottleneck.INCONCLUSIVE,
            "the sampler was truncated or not at temperature 1, so a missing success says nothing about support",
        )

    label, confidence, contributions = _argue(label, confidence, findings, thresholds)
    if not why_open:
        binding = label

    posterior = known.mixture.interval_probabilities([epsilon, thresholds.mastered])
    settles = None
    if label is Bottleneck.INCONCLUSIVE and confidence < thresholds.confidence and behavior.sampling.samples_the_policy:
        settles = what_settles(known, sampling, epsilon=epsilon, thresholds=thresholds, cost=cost, seed=seed)
    stage = name_stage(label, available, {name: words for finding in findings for name, words in finding.of_stages.items()})
    caveats += _caveats(behavior, sampling, validity, paths, label, greedy, thresholds)
    return Diagnosis(
        name=behavior.name,
        purpose=behavior.purpose,
        bottleneck=label,
        confidence=confidence,
        role=ROLE_OF[label],
        shares={state.value: float(share) for state, share in zip(PROBLEM_LABELS, posterior.mean(axis=0), strict=True)},
        stage=stage,
        checks=(*checks, *_path_checks(paths, behavior, thresholds), *validity.checks),
        pass_at_k=curve,
        problems=_problems(problems, sampling, known, posterior, paths, epsilon, thresholds),
        settles_with=settles,
        cost=cost,
        caveats=tuple(caveats),
        sentence=_sentence(behavior, label, binding, confidence, checks, stage, why_open, validity),
        contributions=contributions,
    )


def _argue(
    label: Bottleneck, confidence: float, findings: Sequence[Finding], thresholds: Thresholds
) -> tuple[Bottleneck, float, tuple[Contribution, ...]]:
    """The label after the probes have been heard, with what each of them did to it.

    Of several that would change it the first of `_PRIORITY` does. The new label is as sure as the less sure of the old one and the
    one.
    """
    heard = [(finding, one) for finding in findings for one in finding.evidence if label in one.instead_of]
    sure = [pair for pair in heard if pair[1].confidence >= thresholds.confidence]
    winner = min(sure, key=lambda pair: _PRIORITY.index(pair[1].label)) if sure else None
    contributions = tuple(_contribution(finding, label, heard, winner) for finding in findings)
    if winner is not None:
        label, confidence = winner[1].label, min(confidence, winner[1].confidence)
    return label, confidence, contributions


def _contribution(
    finding: Finding,
    label: Bottleneck,
    heard: Sequence[tuple[Finding, LabelEvidence]],
    winner: tuple[Finding, LabelEvidence] | None,
) -> Contribution:
    """Say what one probe did to the verdict.

    Args:
        finding: What it found.
        label: What the samples alone say.
        heard: All evidence for another label, with its finding.
        winner: The evidence that changed the label, with its finding; None where none did.
    """
    mine = [one for other, one in heard if other is finding]
    if winner is not None and winner[0] is finding:
        kind, best = ContributionKind.DECIDED, winner[1].label
        words = f"makes it {best} instead of {label}, because {winner[1].because}"
    elif mine and winner is None:
        surest = max(mine, key=lambda one: one.confidence)
        kind, best = ContributionKind.NOT_SURE_ENOUGH, surest.label
        words = f"has evidence for {best} ({surest.confidence:.0%}), not sure enough to change {label}"
    elif mine:
        kind, best = ContributionKind.ANOTHER_DECIDED, mine[0].label
        words = f"has evidence for {best} too; another probe decided"
    elif finding.evidence:
        kind, best = ContributionKind.NOT_APPLICABLE, finding.evidence[0].label
        words = f"has evidence for {best}, which cannot replace {label}"
    else:
        kind, best = ContributionKind.NONE, None
        words = "has no evidence for another label" if winner is not None else f"leaves it at {label}"
    return Contribution(probe=finding.probe, kind=kind, label=best, words=words)


def _labels_under_bounds(sampling: SamplingMeasurement, epsilon: float, thresholds: Thresholds, seed: int) -> set[str]:
    """The labels when all missing samples fail and when all succeed."""
    if not sampling.num_missing.any():
        return {"same"}
    total = sampling.num_samples + sampling.num_missing
    few = replace(thresholds, num_draws=_FEW_DRAWS)
    outcomes = (sampling.num_correct, sampling.num_correct + sampling.num_missing)
    return {
        label_posterior(total, correct, epsilon=epsilon, thresholds=few, groups=sampling.groups, seed=seed).label.value
        for correct in outcomes
    }


def _lenient_label(
    sampling: SamplingMeasurement, strict: Bottleneck, epsilon: float, thresholds: Thresholds, seed: int
) -> Bottleneck | None:
    """The label under the lenient reading, where it is another and sure."""
    if (sampling.num_lenient_correct == sampling.num_correct).all():
        return None
    lenient = label_posterior(
        sampling.num_samples,
        sampling.num_lenient_correct,
        epsilon=epsilon,
        thresholds=thresholds,
        groups=sampling.groups,
        seed=seed,
    )
    return lenient.label if lenient.label is not strict and lenient.confidence >= thresholds.confidence else None


# ------------------------------------------------------------------------------------------------------------------- numbers


def _check(name: str, op: str, interval: Estimate, threshold: float, n: int, what: str, unit: str = "problems") -> Check:
    outcome = decide(op, interval.low, interval.high, threshold)
    return Check(
        name=name, op=op, estimate=interval.estimate, low=interval.low, high=interval.high, threshold=threshold, n=n, method=interval.method,
        outcome=outcome, what=what, unit=unit,
    )  # fmt: skip


def _checks(
    behavior: Behavior, sampling: SamplingMeasurement, known: LabelPosterior, curve: Sequence[PassAtK], thresholds: Thresholds
) -> list[Check]:
    """What the verdict rests on, in the order in which a reader asks."""
    k, epsilon, num_problems = behavior.measure.primary_k, behavior.measure.epsilon, len(sampling.problem_ids)
    value = {point.k: point.value for point in curve}
    greedy = Estimate.of(mean_interval(sampling.greedy_correct, sampling.groups, level=thresholds.level))
    inside = 1.0 - known.counts[:, 0] / num_problems
    tail = (1 - thresholds.level) / 2
    low, high = np.quantile(inside, [tail, 1 - tail])
    within = Estimate(estimate=float(inside.mean()), low=float(low), high=float(high), method="posterior of these problems")
    return [
        _check("pass@1", ">=", value[1], thresholds.mastered, num_problems, "mean success rate of one sample"),
        _check(
            f"pass@{k}",
            ">=",
            value[k],
            thresholds.reachable,
            num_problems,
            f"share of problems solved at least once in {k} samples",
        ),
        _check(
            "share within support",
            ">=",
            within,
            thresholds.within_support,
            num_problems,
            f"share of problems with a success rate of at least epsilon = {epsilon:.2g}",
        ),
        _check(
            "greedy pass@1",
            ">=",
            greedy,
            thresholds.mastered,
            int(np.isfinite(sampling.greedy_correct).sum()),
            "success when the most likely token is always taken",
        ),
    ]


def _path_checks(paths: PathLikelihoodMeasurement | None, behavior: Behavior, thresholds: Thresholds) -> list[Check]:
    if paths is None:
        return []
    improbable = (paths.first_improbable_step >= 0).astype(float)
    interval = Estimate.of(mean_interval(improbable, [path.problem_id for path in paths.paths], level=thresholds.level))
    what = f"share of reference paths with a step less likely than epsilon = {behavior.measure.epsilon:.2g}"
    return [_check("improbable reference paths", "<=", interval, thresholds.improbable_path, len(improbable), what, "paths")]


def _pass_at_k(
    behavior: Behavior, sampling: SamplingMeasurement, known: LabelPosterior, thresholds: Thresholds
) -> tuple[PassAtK, ...]:
    """The curve: unbiased where every problem was drawn equally often and k does not exceed its samples, by likelihood elsewhere.

    Where problems were drawn unequally often it was by looking, and then only the likelihood is to be believed.
    """
    fewest = int(sampling.num_samples[sampling.num_samples > 0].min())
    ks = k_grid(max(fewest, behavior.measure.primary_k) * 4, behavior.measure.primary_k)
    counted = [k for k in ks if k <= fewest and sampling.sampled_equally]
    rest = [k for k in ks if k not in counted]
    intervals: dict[int, Interval] = {
        k: mean_interval(pass_at_k(sampling.num_samples, sampling.num_correct, k), sampling.groups, level=thresholds.level)
        for k in counted
    }
    intervals |= zip(rest, known.mixture.pass_at_ks(rest, level=thresholds.level), strict=True)
    return tuple(PassAtK(k=k, value=Estimate.of(intervals[k]), extrapolated=k > fewest) for k in ks)


def _problems(
    problems: Sequence[Problem],
    sampling: SamplingMeasurement,
    known: LabelPosterior,
    posterior: FloatArray,
    paths: PathLikelihoodMeasurement | None,
    epsilon: float,
    thresholds: Thresholds,
) -> tuple[ProblemDiagnosis, ...]:
    mean, low, high = known.mixture.problem_interval(thresholds.level)
    # A state is claimed on what lies strictly inside it: a rate at a threshold belongs to neither side for sure.
    states = problem_labels(known.mixture.interval_probabilities([epsilon, thresholds.mastered], strict=True), thresholds)
    # Of several reference paths of a problem the likeliest one counts: one way to the answer is enough.
    nll: dict[str, float] = {}
    if paths is not None:
        for path, value in zip(paths.paths, paths.nll_per_token, strict=True):
            nll[path.problem_id] = min(nll.get(path.problem_id, np.inf), float(value))
    return tuple(
        ProblemDiagnosis(
            id=problem.id,
            split=problem.split,
            state=PROBLEM_LABELS[states[i]] if states[i] >= 0 else Bottleneck.INCONCLUSIVE,
            posterior={state.value: float(p) for state, p in zip(PROBLEM_LABELS, posterior[i], strict=True)},
            num_samples=int(sampling.num_samples[i]),
            num_correct=int(sampling.num_correct[i]),
            num_missing=int(sampling.num_missing[i]),
            num_unparsed=int(sampling.num_unparsed[i]),
            num_truncated=int(sampling.num_truncated[i]),
            p=float(mean[i]),
            p_low=float(low[i]),
            p_high=float(high[i]),
            p_method="fitted mixture",
            reference_nll_per_token=nll.get(problem.id),
        )
        for i, problem in enumerate(problems)
    )


# --------------------------------------------------------------------------------------------------------------------- words


def _caveats(
    behavior: Behavior, sampling: SamplingMeasurement, validity: ValidityMeasurement, paths: PathLikelihoodMeasurement | None,
    label: Bottleneck, greedy: Check, thresholds: Thresholds,
) -> list[str]:  # fmt: skip
    said = []
    epsilon, fewest = behavior.measure.epsilon, int(sampling.num_samples.min())
    needed = int(np.ceil(-np.log(0.05) / epsilon))
    if fewest < needed and (sampling.num_correct == 0).any():
        said.append(
            f"{fewest} samples of one problem cannot rule out a rate of epsilon = {epsilon:.2g} (that takes {needed}); "
            "the states of problems without a success come from the fitted mixture of all problems."
        )
    said += [
        f"Not decided: {c.name} is {c.estimate:.3g} [{c.low:.3g}, {c.high:.3g}], at most {c.threshold:g} is wanted."
        for c in validity.checks
        if c.outcome is Outcome.INCONCLUSIVE
    ]
    said += [
        f"{c.estimate:.0%} of samples could not be read; failures, counted apart."
        for c in validity.checks
        if c.name == UNPARSED and c.estimate > 0.1
    ]
    if label is Bottleneck.POOR_CHOICE and greedy.outcome is Outcome.INCONCLUSIVE:
        said.append(
            f"Greedy decoding reaches {greedy.estimate:.2f} [{greedy.low:.2f}, {greedy.high:.2f}]: if {thresholds.mastered:g} would do, decoding may be all that binds."
        )
    if label is Bottleneck.MISSING_SUPPORT and paths is not None:
        reachable = float((paths.first_improbable_step < 0).mean())
        if reachable > 0.5:
            said.append(
                f"{reachable:.0%} of the reference paths have no step below epsilon: the paths look likely although no sample took them."
            )
    if len(sampling.problem_ids) < 10:
        said.append(f"Only {len(sampling.problem_ids)} problems: intervals over problems are wide.")
    return said


def _sentence(
    behavior: Behavior,
    label: Bottleneck,
    binding: Bottleneck,
    confidence: float,
    checks: Sequence[Check],
    stage: StageAdvice,
    why_open: str,
    validity: ValidityMeasurement,
) -> str:
    """The verdict in one sentence."""
    pass_1, pass_k = checks[0], checks[1]
    numbers = f"{pass_1.name} {in_words(pass_1)}, {pass_k.name} {in_words(pass_k)}"
    head = f"{behavior.name}: "
    match label:
        case Bottleneck.MISSING_SUPPORT:
            body = f"mostly out of reach ({numbers}): right answers are missing from what the model can produce"
        case Bottleneck.POOR_CHOICE:
            body = f"reachable but unreliable ({numbers}): the model has right answers and does not choose them"
        case Bottleneck.GUIDED_ONLY:
            body = f"out of reach from the prompt, within reach from a part of a reference path ({numbers})"
        case Bottleneck.SCAFFOLD_BOUND:
            body = f"there with a scaffold, not without ({numbers} without)"
        case Bottleneck.ATTRITION:
            body = f"lost: an earlier policy could do it ({numbers} now)"
        case Bottleneck.MASTERED:
            body = f"mastered ({numbers})"
        case Bottleneck.FORMAT:
            body = f"right but not readable ({numbers} as read strictly): the answers are there, their format is not"
        case Bottleneck.DECODING:
            greedy = checks[3]
            body = f"unreliable only when sampled ({numbers}; greedy {in_words(greedy)})"
        case Bottleneck.INVALID:
            body = f"no verdict, the measurement is invalid ({'; '.join(validity.failures[:2]) or 'a check is not met'})"
        case _:
            return f"{head}inconclusive ({numbers}): {why_open}; most likely {binding} ({_percent(confidence)})."
    action = {
        "none": "do nothing",
        "fix_setup": "fix the setup first",
        "change_decoding": "decode greedily or cooler instead of training",
    }
    todo = action.get(stage.name, f"run {stage.name}" if STAGES[stage.name].trains else stage.name.replace("_", " "))
    return f"{head}{body}; {todo}. (confidence {_percent(confidence)})"


def in_words(value: Check | Estimate) -> str:
    """A number with its interval; bounds alone where the data do not identify the number."""
    if np.isnan(value.estimate):
        return f"not identified [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.estimate:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _percent(p: float) -> str:
    """A probability that is not one is not written as one."""
    return ">99%" if p > 0.99 else f"{p:.0%}"


def _without_samples(behavior: Behavior, validity: ValidityMeasurement, available: frozenset[Need], cost: Cost) -> Diagnosis:
    """The diagnosis of a behavior that was not sampled, because its verifier failed the self-test, or whose samples are all missing."""
    why = "; ".join(validity.failures[:2]) or "every sample is missing"
    return Diagnosis(
        name=behavior.name, purpose=behavior.purpose, bottleneck=Bottleneck.INVALID, confidence=1.0, role=None, shares={},
        stage=name_stage(Bottleneck.INVALID, available), checks=validity.checks, pass_at_k=(), problems=(), settles_with=None, cost=cost,
        caveats=validity.notes, sentence=f"{behavior.name}: no verdict, the measurement is invalid ({why}); fix the setup first.",
    )  # fmt: skip
