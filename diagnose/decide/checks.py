"""The numbers that a verdict shows: checks against thresholds, the pass@k curve, and the label of every problem."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat

import numpy as np

from posttrain.analysis.stats import FloatArray, jeffreys_intervals, k_grid, mean_interval
from posttrain.diagnose.decide.evidence import Measurements
from posttrain.diagnose.measure.label_posterior import PROBLEM_LABELS, LabelPosterior, problem_labels
from posttrain.diagnose.measure.pass_at_k import estimate_pass_at_k
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, Check, Estimate, PassAtK, ProblemDiagnosis, check_estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictChecks:
    """Hold what the verdict rests on, in the order in which a reader asks."""

    pass_1: Check
    pass_k: Check
    """At the primary k of the behavior."""
    within_support: Check
    greedy: Check
    paths: Check | None
    """None without reference paths."""

    @property
    def shown(self) -> tuple[Check, ...]:
        """Return the checks that there are."""
        found = (self.pass_1, self.pass_k, self.within_support, self.greedy if self.greedy.n else None, self.paths)
        return tuple(check for check in found if check is not None)


def check_measurements(
    measured: Measurements, posterior: LabelPosterior, curve: tuple[PassAtK, ...], thresholds: Thresholds
) -> VerdictChecks:
    """Hold the numbers of a behavior against their thresholds.

    Args:
        measured: What was measured.
        posterior: What the counts say.
        curve: Pass@k, at 1 and at the primary k among others.
        thresholds: What the numbers are held against.
    """
    behavior, counts = measured.behavior, measured.counts
    k, num_problems = behavior.measure.primary_k, len(counts.problem_ids)
    value = {point.k: point.value for point in curve}
    greedy = Estimate.of(mean_interval(counts.greedy_correct, counts.groups, level=thresholds.level))
    inside = Estimate.of(posterior.mixture.share_between(behavior.measure.epsilon, 1.0, level=thresholds.level))
    words = {
        "pass_1": "mean success rate of one sample",
        "pass_k": f"share of problems solved at least once in {k} samples",
        "within": f"share of the population of problems with a success rate of at least epsilon = {behavior.measure.epsilon:.2g}",
        "greedy": "success when the most likely token is always taken",
    }
    num_greedy = int(np.isfinite(counts.greedy_correct).sum())
    return VerdictChecks(
        pass_1=check_estimate("pass@1", ">=", value[1], thresholds.mastered, n=num_problems, what=words["pass_1"]),
        pass_k=check_estimate(f"pass@{k}", ">=", value[k], thresholds.reachable, n=num_problems, what=words["pass_k"]),
        within_support=check_estimate(
            "share within support", ">=", inside, thresholds.within_support, n=num_problems, what=words["within"]
        ),
        greedy=check_estimate("greedy pass@1", ">=", greedy, thresholds.mastered, n=num_greedy, what=words["greedy"]),
        paths=_check_paths(measured, thresholds),
    )


def _check_paths(measured: Measurements, thresholds: Thresholds) -> Check | None:
    paths, epsilon = measured.paths, measured.behavior.measure.epsilon
    if paths is None:
        return None
    improbable = (paths.first_improbable_step >= 0).astype(float)
    interval = Estimate.of(mean_interval(improbable, [path.problem_id for path in paths.paths], level=thresholds.level))
    what = f"share of reference paths with a step less likely than epsilon = {epsilon:.2g}"
    name, threshold = "improbable reference paths", thresholds.improbable_path
    return check_estimate(name, "<=", interval, threshold, n=len(improbable), what=what, unit="paths")


def pass_at_k_curve(measured: Measurements, posterior: LabelPosterior, level: float) -> tuple[PassAtK, ...]:
    """Return the curve: by counting as far as the samples reach, by likelihood beyond and after adaptive sampling."""
    counts, primary = measured.counts, measured.behavior.measure.primary_k
    fewest = int(counts.num_samples[counts.num_samples > 0].min())
    ks = k_grid(max(fewest, primary) * 4, primary)
    intervals = estimate_pass_at_k(
        counts.num_samples,
        counts.num_correct,
        counts.groups,
        ks,
        level=level,
        equally=counts.sampled_equally,
        mixture=posterior.mixture,
    )
    return tuple(PassAtK(k=k, value=Estimate.of(one), extrapolated=k > fewest) for k, one in zip(ks, intervals, strict=True))


def label_problems(
    measured: Measurements, posterior: LabelPosterior, probabilities: FloatArray, thresholds: Thresholds
) -> tuple[ProblemDiagnosis, ...]:
    """Return the label of every problem with what it rests on.

    Args:
        measured: What was measured.
        posterior: What the counts say.
        probabilities: [P, 3] posterior probability of each of `PROBLEM_LABELS`.
        thresholds: How sure a label must be.
    """
    counts, mixture = measured.counts, posterior.mixture
    low, high = (end[mixture.place] for end in jeffreys_intervals(*mixture.pairs.T, level=thresholds.level))
    mean = np.where(counts.num_samples > 0, counts.num_correct / np.maximum(counts.num_samples, 1), mixture.problem_means())
    labels = problem_labels(probabilities, thresholds.confidence)
    names = [label.value for label in PROBLEM_LABELS]
    states = (*PROBLEM_LABELS, Bottleneck.INCONCLUSIVE)  # whose place is −1
    # Of several reference paths of a problem the likeliest one counts: one way to the answer is enough.
    nll: dict[str, float] = {}
    if measured.paths is not None:
        for path, value in zip(measured.paths.paths, measured.paths.nll_per_token, strict=True):
            nll[path.problem_id] = min(nll.get(path.problem_id, np.inf), float(value))
    columns = {
        "id": [problem.id for problem in measured.problems],
        "split": [problem.split for problem in measured.problems],
        "state": [states[label] for label in labels.tolist()],
        "posterior": [dict(zip(names, chances, strict=True)) for chances in probabilities.tolist()],
        **{name: getattr(counts, name).tolist() for name in ProblemDiagnosis._fields if name.startswith("num_")},
        "p": mean.tolist(),
        "p_low": low.tolist(),
        "p_high": high.tolist(),
        "p_method": repeat("Jeffreys", len(measured.problems)),
        "reference_nll_per_token": [nll.get(problem.id) for problem in measured.problems],
    }
    return tuple(map(ProblemDiagnosis._make, zip(*(columns[name] for name in ProblemDiagnosis._fields), strict=True)))
