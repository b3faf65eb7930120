"""From measurements to a diagnosis: what binds, how sure that is, what would settle it, and which stage to run.

The rule (arXiv 2604.07941 §7.2.1, made countable). Every problem has a success rate p, known up to a posterior from the fitted mixture:

* p < epsilon: out of support: a training group would hold no success (`missing_support`);
* epsilon ≤ p < mastered: reachable, unreliable (`poor_choice`);
* p ≥ mastered: `mastered`.

A behavior is `mastered` when its mean p is; otherwise the one of the other two states that holds more of its problems binds, and the
shares say how mixed it is. Failures of the plumbing, a lenient reading that changes the label, and greedy decoding that
masters the behavior come first. The label's posterior probability is its confidence; under `Thresholds.confidence` the verdict is
`inconclusive`, with the samples that should settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, MixturePosterior, fit_mixture, k_grid, mean_interval, pass_at_k
from posttrain.diagnose.probes.plumbing import UNPARSED
from posttrain.diagnose.stages import ROLE_OF, STAGES, Need, name_stage
from posttrain.diagnose.types import (
    Behavior,
    Bottleneck,
    Check,
    Cost,
    Diagnosis,
    Estimate,
    Outcome,
    PassAtK,
    PathLikelihoodMeasurement,
    PlumbingMeasurement,
    Problem,
    ProblemDiagnosis,
    SamplingMeasurement,
    SettlesWith,
    StageAdvice,
    decide,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Every number that a verdict hangs on, but epsilon, which belongs to the behavior."""

    mastered: float = 0.9
    """Success rate from which a problem, or a behavior, needs no training."""
    confidence: float = 0.8
    """Posterior probability that a label needs; below it the verdict is inconclusive."""
    problem_confidence: float = 0.8
    """The same for the state of one problem."""
    reachable: float = 0.5
    """Pass@k at the primary k from which a behavior counts as reachable on the whole."""
    max_truncated: float = 0.2
    max_unparsed: float = 0.5
    max_missing: float = 0.05
    improbable_path: float = 0.5
    """Share of reference paths with a step below epsilon, from which the paths count as out of reach."""
    level: float = 0.95
    """Of all intervals."""
    num_draws: int = 2000
    """Posterior draws; the Monte-Carlo error of a confidence is at most .012."""


_STATES = (Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE, Bottleneck.MASTERED)
_MAX_GROWTH = 256.0


def diagnose_behavior(
    behavior: Behavior,
    problems: Sequence[Problem],
    sampling: SamplingMeasurement,
    plumbing: PlumbingMeasurement,
    paths: PathLikelihoodMeasurement | None,
    *,
    thresholds: Thresholds,
    at_hand: frozenset[Need],
    seed: int,
    cost: Cost,
) -> Diagnosis:
    """Decide what binds one behavior.

    Args:
        behavior: What was measured.
        problems: Its measured problems, in the order of `sampling`.
        sampling: Outcomes per problem.
        plumbing: Whether they can be believed.
        paths: Likelihood of the reference paths, where there are any.
        thresholds: Every number the verdict hangs on.
        at_hand: What a stage could be fed with.
        seed: Of the posterior draws; the same measurements and seed give the same diagnosis.
        cost: What the measurement took, copied into the result.
    """
    epsilon = behavior.measure.epsilon
    broken = [c for c in plumbing.checks if c.outcome is Outcome.NOT_MET and c.name != UNPARSED]
    if not sampling.num_samples.sum():
        return _without_samples(behavior, plumbing, at_hand, cost)

    mixture = fit_mixture(sampling.num_samples, sampling.num_correct)
    rates = mixture.draw_rates(rng=np.random.default_rng(seed), num_draws=thresholds.num_draws)
    labels = label_draws(rates, epsilon, thresholds.mastered)
    label, confidence = _most_probable(labels)
    caveats = list(plumbing.notes)
    checks = _checks(behavior, sampling, rates, thresholds)
    greedy = next(c for c in checks if c.name == "greedy pass@1")

    why_open = ""
    bounds = _labels_under_bounds(sampling, epsilon, thresholds, seed)
    if broken:
        # What a check proves broken is broken: the checks' own intervals are the doubt that is left.
        label, confidence = Bottleneck.INVALID, thresholds.level
    elif len(bounds) > 1:
        why_open = f"{int(sampling.num_missing.sum())} samples are missing, and the label depends on them ({' or '.join(sorted(bounds))})"
    elif confidence < thresholds.confidence:
        shares = {state: float(np.mean(labels == i)) for i, state in enumerate(_STATES)}
        said = ", ".join(f"{state} {share:.0%}" for state, share in shares.items() if share >= 0.01)
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

    posterior = mixture.state_probabilities([epsilon, thresholds.mastered])
    settles = None
    if label is Bottleneck.INCONCLUSIVE and confidence < thresholds.confidence and behavior.sampling.samples_the_policy:
        settles = _settles_with(sampling, rates, epsilon, thresholds)
    stage = name_stage(label, at_hand)
    caveats += _caveats(behavior, sampling, plumbing, paths, label, greedy, thresholds)
    return Diagnosis(
        name=behavior.name,
        purpose=behavior.purpose,
        bottleneck=label,
        confidence=confidence,
        role=ROLE_OF[label],
        shares={state.value: float(share) for state, share in zip(_STATES, posterior.mean(axis=0), strict=True)},
        stage=stage,
        checks=(*checks, *_path_checks(paths, behavior, thresholds), *plumbing.checks),
        pass_at_k=_pass_at_k(behavior, sampling, rates, thresholds),
        problems=_problems(problems, sampling, mixture, posterior, paths, thresholds),
        settles_with=settles,
        cost=cost,
        caveats=tuple(caveats),
        sentence=_sentence(behavior, label, binding, confidence, checks, stage, why_open, plumbing),
    )


def label_draws(rates: npt.NDArray[np.float64], epsilon: float, mastered: float) -> npt.NDArray[np.int64]:
    """The label of a behavior for each draw of its problems' success rates.

    Args:
        rates: [D, P] success rates.
        epsilon: Rate under which a problem is out of support.
        mastered: Rate from which a problem, and mean rate from which the behavior, is mastered.

    Returns:
        [D] 0 missing support, 1 poor choice, 2 mastered.
    """
    out_of_support = (rates < epsilon).sum(axis=1)
    unreliable = ((rates >= epsilon) & (rates < mastered)).sum(axis=1)
    label = np.where(out_of_support > unreliable, 0, 1)
    return np.where(rates.mean(axis=1) >= mastered, 2, label)


def _most_probable(labels: npt.NDArray[np.int64]) -> tuple[Bottleneck, float]:
    counts = np.bincount(labels, minlength=len(_STATES))
    best = int(counts.argmax())
    # Finitely many draws prove no certainty: half a draw is always left to the other labels.
    return _STATES[best], float((counts[best] + 0.5) / (len(labels) + 1))


def _label_of_counts(
    num_samples: npt.NDArray[np.int64], num_correct: npt.NDArray[np.int64], epsilon: float, thresholds: Thresholds, seed: int
) -> tuple[Bottleneck, float]:
    rates = fit_mixture(num_samples, num_correct).draw_rates(rng=np.random.default_rng(seed), num_draws=thresholds.num_draws)
    return _most_probable(label_draws(rates, epsilon, thresholds.mastered))


def _labels_under_bounds(sampling: SamplingMeasurement, epsilon: float, thresholds: Thresholds, seed: int) -> set[str]:
    """The labels when all missing samples fail and when all succeed."""
    if not sampling.num_missing.any():
        return {"same"}
    total = sampling.num_samples + sampling.num_missing
    outcomes = (sampling.num_correct, sampling.num_correct + sampling.num_missing)
    return {_label_of_counts(total, correct, epsilon, thresholds, seed)[0].value for correct in outcomes}


def _lenient_label(
    sampling: SamplingMeasurement, strict: Bottleneck, epsilon: float, thresholds: Thresholds, seed: int
) -> Bottleneck | None:
    """The label under the lenient reading, where it is another and sure."""
    if (sampling.num_lenient_correct == sampling.num_correct).all():
        return None
    label, confidence = _label_of_counts(sampling.num_samples, sampling.num_lenient_correct, epsilon, thresholds, seed)
    return label if label is not strict and confidence >= thresholds.confidence else None


# ------------------------------------------------------------------------------------------------------------------- numbers


def as_estimate(interval: Interval) -> Estimate:
    """An interval of `analysis`, in the vocabulary of diagnoses."""
    return Estimate(estimate=interval.estimate, low=interval.low, high=interval.high, method=interval.method)


def _check(name: str, op: str, interval: Interval, threshold: float, n: int, what: str) -> Check:
    outcome = decide(op, interval.low, interval.high, threshold)
    return Check(
        name=name, op=op, estimate=interval.estimate, low=interval.low, high=interval.high, threshold=threshold, n=n, method=interval.method,
        outcome=outcome, what=what,
    )  # fmt: skip


def _drawn(values: npt.NDArray[np.float64], method: str, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(estimate=float(values.mean()), low=float(low), high=float(high), method=method)


def _checks(
    behavior: Behavior,
    sampling: SamplingMeasurement,
    rates: npt.NDArray[np.float64],
    thresholds: Thresholds,
) -> list[Check]:
    """What the verdict rests on, in the order in which a reader asks."""
    k, epsilon, num_problems = behavior.measure.primary_k, behavior.measure.epsilon, len(sampling.problem_ids)
    pass_1 = mean_interval(pass_at_k(sampling.num_samples, sampling.num_correct, 1), sampling.groups, level=thresholds.level)
    if int(sampling.num_samples.min()) >= k:
        pass_k = mean_interval(pass_at_k(sampling.num_samples, sampling.num_correct, k), sampling.groups, level=thresholds.level)
    else:
        pass_k = _extrapolated(rates, k, thresholds)
    greedy = mean_interval(sampling.greedy_correct, sampling.groups, level=thresholds.level)
    within = _drawn((rates >= epsilon).mean(axis=1), "posterior of the fitted mixture", thresholds.level)
    return [
        _check("pass@1", ">=", pass_1, thresholds.mastered, num_problems, "mean success rate of one sample; n counts problems"),
        _check(
            f"pass@{k}",
            ">=",
            pass_k,
            thresholds.reachable,
            num_problems,
            f"share of problems solved at least once in {k} samples; n counts problems",
        ),
        _check(
            "share within support",
            ">=",
            within,
            0.5,
            num_problems,
            f"share of problems with a success rate of at least epsilon = {epsilon:.2g}; n counts problems",
        ),
        _check(
            "greedy pass@1",
            ">=",
            greedy,
            thresholds.mastered,
            int(np.isfinite(sampling.greedy_correct).sum()),
            "success when the most likely token is always taken; n counts problems",
        ),
    ]


def _path_checks(paths: PathLikelihoodMeasurement | None, behavior: Behavior, thresholds: Thresholds) -> list[Check]:
    if paths is None:
        return []
    improbable = (paths.first_improbable_step >= 0).astype(float)
    interval = mean_interval(improbable, [path.problem_id for path in paths.paths], level=thresholds.level)
    what = f"share of reference paths with a step less likely than epsilon = {behavior.measure.epsilon:.2g}; n counts paths"
    return [_check("improbable reference paths", "<=", interval, thresholds.improbable_path, len(improbable), what)]


def _extrapolated(rates: npt.NDArray[np.float64], k: int, thresholds: Thresholds) -> Interval:
    """Pass@k beyond the samples drawn, from posterior draws [D, P] of the success rates (arXiv 2510.05197, with a heap at zero).

    Each draw weighs the problems anew (Bayesian bootstrap), since they are a sample of those that could have been measured.
    """
    weights = np.random.default_rng(k).dirichlet(np.ones(rates.shape[1]), size=len(rates))
    return _drawn((weights * (1 - (1 - rates) ** k)).sum(axis=1), "fitted mixture, problems reweighted", thresholds.level)


def _pass_at_k(
    behavior: Behavior, sampling: SamplingMeasurement, rates: npt.NDArray[np.float64], thresholds: Thresholds
) -> tuple[PassAtK, ...]:
    fewest = int(sampling.num_samples[sampling.num_samples > 0].min())
    points = []
    for k in k_grid(max(fewest, behavior.measure.primary_k) * 4, behavior.measure.primary_k):
        if k <= fewest:
            interval = mean_interval(
                pass_at_k(sampling.num_samples, sampling.num_correct, k), sampling.groups, level=thresholds.level
            )
        else:
            interval = _extrapolated(rates, k, thresholds)
        points.append(PassAtK(k=k, value=as_estimate(interval), extrapolated=k > fewest))
    return tuple(points)


def _problems(
    problems: Sequence[Problem],
    sampling: SamplingMeasurement,
    mixture: MixturePosterior,
    posterior: npt.NDArray[np.float64],
    paths: PathLikelihoodMeasurement | None,
    thresholds: Thresholds,
) -> tuple[ProblemDiagnosis, ...]:
    mean, low, high = mixture.problem_interval(thresholds.level)
    # Of several reference paths of a problem the likeliest one counts: one way to the answer is enough.
    nll: dict[str, float] = {}
    if paths is not None:
        for path, value in zip(paths.paths, paths.nll_per_token, strict=True):
            nll[path.problem_id] = min(nll.get(path.problem_id, np.inf), float(value))
    return tuple(
        ProblemDiagnosis(
            id=problem.id,
            split=problem.split,
            state=_STATES[int(posterior[i].argmax())]
            if posterior[i].max() >= thresholds.problem_confidence
            else Bottleneck.INCONCLUSIVE,
            posterior={state.value: float(p) for state, p in zip(_STATES, posterior[i], strict=True)},
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


def _settles_with(
    sampling: SamplingMeasurement, rates: npt.NDArray[np.float64], epsilon: float, thresholds: Thresholds
) -> SettlesWith | None:
    """Further samples expected to bring the label to the wanted confidence, if today's estimate is right; None where none would.

    The label hangs on the sign of a margin: the share of unreliable problems less that of problems out of support, or the mean rate less
    `mastered`, whichever is closer to zero. Its posterior standard deviation falls like one over the root of the number of samples.
    """
    unreliable = (rates >= epsilon) & (rates < thresholds.mastered)
    balance = unreliable.mean(axis=1) - (rates < epsilon).mean(axis=1)
    mastery = rates.mean(axis=1) - thresholds.mastered
    closest = min((balance, mastery), key=lambda margin: abs(margin.mean()) / max(margin.std(), 1e-9))
    wanted = 1.28  # one-sided normal quantile of .9, a little above the confidence asked for
    growth = max(2.0, float((wanted * closest.std() / max(abs(closest.mean()), 1e-9)) ** 2))
    if growth > _MAX_GROWTH:
        return None  # the behavior lies at a threshold
    n = int(sampling.num_samples.sum() + sampling.num_missing.sum())
    extra = int(np.ceil((growth - 1) * n))
    return SettlesWith(samples=extra, tokens=int(np.ceil(extra * sampling.num_tokens.sum() / max(1, n))))


# --------------------------------------------------------------------------------------------------------------------- words


def _caveats(
    behavior: Behavior, sampling: SamplingMeasurement, plumbing: PlumbingMeasurement, paths: PathLikelihoodMeasurement | None,
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
        for c in plumbing.checks
        if c.outcome is Outcome.INCONCLUSIVE
    ]
    said += [
        f"{c.estimate:.0%} of samples could not be read; failures, counted apart."
        for c in plumbing.checks
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
    plumbing: PlumbingMeasurement,
) -> str:
    """The verdict in one sentence."""
    pass_1, pass_k = checks[0], checks[1]
    numbers = f"{pass_1.name} {pass_1.estimate:.2f} [{pass_1.low:.2f}, {pass_1.high:.2f}], {pass_k.name} {pass_k.estimate:.2f} [{pass_k.low:.2f}, {pass_k.high:.2f}]"
    head = f"{behavior.name}: "
    match label:
        case Bottleneck.MISSING_SUPPORT:
            body = f"mostly out of reach ({numbers}): right answers are missing from what the model can produce"
        case Bottleneck.POOR_CHOICE:
            body = f"reachable but unreliable ({numbers}): the model has right answers and does not choose them"
        case Bottleneck.MASTERED:
            body = f"mastered ({numbers})"
        case Bottleneck.FORMAT:
            body = f"right but not readable ({numbers} as read strictly): the answers are there, their format is not"
        case Bottleneck.DECODING:
            greedy = checks[3]
            body = f"unreliable only when sampled ({numbers}; greedy {greedy.estimate:.2f} [{greedy.low:.2f}, {greedy.high:.2f}])"
        case Bottleneck.INVALID:
            body = f"no verdict, the plumbing is broken ({'; '.join(plumbing.failures[:2]) or 'a check is not met'})"
        case _:
            return f"{head}inconclusive ({numbers}): {why_open}; most likely {binding} ({_percent(confidence)})."
    action = {
        "none": "do nothing",
        "repair_plumbing": "repair it first",
        "change_decoding": "decode greedily or cooler instead of training",
    }
    todo = action.get(stage.name, f"run {stage.name}" if STAGES[stage.name].runnable else stage.name.replace("_", " "))
    return f"{head}{body}; {todo}. (confidence {_percent(confidence)})"


def _percent(p: float) -> str:
    """A probability that is not one is not written as one."""
    return ">99%" if p > 0.99 else f"{p:.0%}"


def _without_samples(behavior: Behavior, plumbing: PlumbingMeasurement, at_hand: frozenset[Need], cost: Cost) -> Diagnosis:
    """The diagnosis of a behavior that was not sampled, because its verifier failed the self-test, or whose samples are all missing."""
    why = "; ".join(plumbing.failures[:2]) or "every sample is missing"
    return Diagnosis(
        name=behavior.name, purpose=behavior.purpose, bottleneck=Bottleneck.INVALID, confidence=1.0, role=None, shares={},
        stage=name_stage(Bottleneck.INVALID, at_hand), checks=plumbing.checks, pass_at_k=(), problems=(), settles_with=None, cost=cost,
        caveats=plumbing.notes, sentence=f"{behavior.name}: no verdict, the plumbing is broken ({why}); repair it first.",
    )  # fmt: skip
