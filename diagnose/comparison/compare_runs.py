"""Before against after, paired by problem, with what two draws of the *same* model would show beside it.

"Not seen in n draws" moves with n, and some problems without a success show one when the same model is drawn again. So both runs are
thinned to the same samples per problem, support dynamics (arXiv 2507.14843) stand beside their null, a problem is called expanded
or attrited only when its own test says so under a false-discovery rate over all problems and both directions, and problems that one
draw selected ("never solved before") are judged on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import (
    CurveCrossing,
    Equivalence,
    Interval,
    NeverSolved,
    curve_crossing,
    detectable_rise,
    equivalence_test,
    fit_mixture,
    k_grid,
    max_t_deltas,
    mean_interval,
    never_solved_gain,
    paired_delta_interval,
    pass_at_k,
    posterior_delta_interval,
    problem_change_tests,
)
from posttrain.diagnose.comparison.change_role import FALSE_DISCOVERY_RATE, RoleVerdict, decide_role
from posttrain.diagnose.comparison.compare_file import compare_file
from posttrain.diagnose.comparison.nulls import HALVES, PREDICTIVE, coupled, support_rows
from posttrain.diagnose.comparison.transition import ComparisonReport, ProblemChangeRow, SideBySide
from posttrain.diagnose.errors import RunError, SettingsError
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.pipeline.assemble import assemble
from posttrain.diagnose.pipeline.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.diagnosis_json import RunEntry
from posttrain.diagnose.storage.json_model import write_model
from posttrain.diagnose.storage.rollout_table import RolloutTable
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import Estimate, PassAtK, Split

DEFAULT_MARGIN = 0.05
"""Change of pass@1 that does not matter."""
_DRAWS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviorTransition:
    """What a stage did to one behavior."""

    name: str
    report: ComparisonReport
    """The numbers, for reports and for compare.json."""
    role: RoleVerdict
    never_solved: NeverSolved
    """The gain on problems that the model before was not seen to solve."""
    crossing: CurveCrossing
    """Where the pass@k curve after falls below the one before."""
    equivalence: Equivalence
    """Whether the change of pass@1 is shown to be too small to matter."""
    mean_tokens: tuple[float, float]
    """Generated tokens per sample, before and after."""

    @property
    def role_observed(self) -> str:
        """`support_expansion`, `policy_reshaping`, `attrition` or `not_distinguishable` (from drawing the same model again)."""
        return self.role.role


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """What lies between two runs."""

    before: DiagnosedRun
    after: DiagnosedRun
    behaviors: tuple[BehaviorTransition, ...]
    null: str
    """What support dynamics are held against: `predictive`, `halves`, or the folder of a second draw of the model before."""

    def __getitem__(self, name: str) -> BehaviorTransition:
        """The behavior of that name."""
        for behavior in self.behaviors:
            if behavior.name == name:
                return behavior
        raise KeyError(name)


def compare(
    before: str | Path | DiagnosedRun,
    after: str | Path | DiagnosedRun,
    *,
    out: str | Path,
    null: str | Path | DiagnosedRun = PREDICTIVE,
    margin: float = DEFAULT_MARGIN,
    trained: Sequence[str] = (),
    stage: str | None = None,
    page: bool = True,
    command: str = "",
    run: RunEntry | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Transition:
    """Compare two runs on the behaviors that both measured, and write compare.json and a report to `out`.

    Args:
        before: A run directory, or a run.
        after: The same, measured with the same behaviors and split.
        out: Folder for compare.json, report.html and report.md.
        null: What support dynamics are held against: `predictive` (the fitted mixture), `halves` (one half of the samples before
            against the other), or a second draw of the model before (another seed), as a run directory or a run.
        margin: The largest change of pass@1 that does not matter, for the test of equivalence.
        trained: Names of the behaviors that the stage in between was trained on.
        stage: Its name.
        page: Whether to write report.html and report.md too.
        command: What to print under "how to reproduce".
        run: What compare.json says of the command that wrote it, in place of `command`.
        settings: The settings that the page shows; those of the run after without them.

    Raises:
        RunError: the runs share no behavior, or measured it differently, or null repeats the samples of `before`.
        SettingsError: margin is out of range.
    """
    if not 0.0 < margin < 1.0:
        raise SettingsError(f"--margin: got {margin}, it is a change of pass@1; give a number between 0 and 1, such as 0.05")
    runs = [run if isinstance(run, DiagnosedRun) else assemble(run) for run in (before, after)]
    second = None if null in (PREDICTIVE, HALVES) else null if isinstance(null, DiagnosedRun) else assemble(null)
    _check_comparable(runs[0], runs[1])
    common = [m.behavior.name for m in runs[0].behaviors if m.behavior.name in runs[1].settings["behaviors"]]
    # A behavior that was not sampled, because its verifier failed the self-test, has nothing to compare.
    shared = [name for name in common if _thinned(runs[0][name], runs[1][name]).ids]
    if not shared:
        raise RunError(
            f"compare: {', '.join(common)} has no problem with samples in both {runs[0].path} and {runs[1].path}; "
            "look at the validity checks of their reports"
        )
    if second is not None:
        _check_null(runs[0], second, shared)
    transition = Transition(
        before=runs[0],
        after=runs[1],
        behaviors=tuple(
            _compare_behavior(
                runs[0][name], runs[1][name], second[name] if second else None, halves=null == HALVES, margin=margin,
                trained=name in trained, stage=stage,
            )
            for name in shared
        ),
        null=str(second.path if second else null),
    )  # fmt: skip
    run = run or RunEntry(
        path=str(out),
        created=runs[1].run.created,
        command=command or f"posttrain compare {runs[0].path} {runs[1].path} --out {out}",
        versions=runs[1].run.versions,
    )
    write_model(Path(out) / "compare.json", compare_file(transition, run, settings or runs[1].settings))
    if page:
        from posttrain.diagnose.report.report_files import write_report

        write_report(Path(out))
    return transition


def _check_comparable(before: DiagnosedRun, after: DiagnosedRun) -> None:
    mine, other = before.settings["behaviors"], after.settings["behaviors"]
    shared = sorted(set(mine) & set(other))
    if not shared:
        raise RunError(
            f"compare: {before.path} measured {', '.join(mine)}, {after.path} measured {', '.join(other)}; give two runs with a behavior in common"
        )
    for name in shared:
        if mine[name] != other[name]:
            raise RunError(
                f"compare: {name} is not the same behavior in {before.path} and {after.path}; measure both with one behavior file"
            )
    if before.settings["split"] != after.settings["split"]:
        raise RunError(
            f"compare: {before.path} measured the {before.settings['split']} split, {after.path} the {after.settings['split']} split; measure the same one"
        )
    if before.settings["split"] == Split.TRAIN:
        raise RunError(
            f"compare: {before.path} and {after.path} measured the train split, whose samples are there to learn from and prove nothing; compare runs "
            "of the eval split"
        )
    same = {key: before.settings[key] == after.settings[key] for key in ("model_fingerprint", "seed", "engine")}
    if all(same.values()) or (
        same["model_fingerprint"] and any(coupled(before[name].table, after[name].table) for name in shared)
    ):
        raise RunError(
            f"compare: the rollouts in {before.path} and {after.path} are identical, or more alike than two draws of one model would be, "
            "and one draw says nothing against itself; use another --seed for a second draw"
        )


def _check_null(before: DiagnosedRun, null: DiagnosedRun, shared: Sequence[str]) -> None:
    lacking = sorted(set(shared) - set(null.settings["behaviors"]))
    if lacking:
        raise RunError(f"compare: --null {null.path} did not measure {', '.join(lacking)}; measure the same behaviors")
    if null.settings["model_fingerprint"] != before.settings["model_fingerprint"]:
        raise RunError(
            f"compare: --null {null.path} measured another model than {before.path}; measure the model before again, with another --seed"
        )
    _check_comparable(before, null)
    unsampled = sorted(name for name in shared if not _thinned(before[name], null[name]).ids)
    if unsampled:
        raise RunError(
            f"compare: --null {null.path} has no samples of {', '.join(unsampled)}; look at the validity checks of its report"
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """Samples and successes of the problems that both runs sampled, the same number of samples on both sides."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    n: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]


def _thinned(before: DiagnosedBehavior, after: DiagnosedBehavior) -> _Counts:
    """The first samples of each problem, as many as both runs have.

    Where a run drew in rounds, how many a problem has depends on what they showed; then the same number of every problem is taken, the
    fewest that any has.
    """
    problems = before.behavior.problems
    sides = [_known_outcomes(measured, [problem.id for problem in problems]) for measured in (before, after)]
    n = np.minimum(*(np.bincount(place, minlength=len(problems)) for place, _, _ in sides))
    shared = np.flatnonzero(n)
    if shared.size and (_in_rounds(before) or _in_rounds(after)):
        n = np.where(n > 0, n[shared].min(), 0)
    correct = [np.bincount(place[success & (rank < n[place])], minlength=len(problems))[shared] for place, success, rank in sides]
    return _Counts(
        ids=tuple(problems[i].id for i in shared),
        groups=tuple(problems[i].group or problems[i].id for i in shared),
        n=n[shared],
        before=correct[0],
        after=correct[1],
    )


def _in_rounds(measured: DiagnosedBehavior) -> bool:
    return not measured.sampling.sampled_equally


def _posterior_deltas(
    before: DiagnosedBehavior,
    after: DiagnosedBehavior,
    ids: Sequence[str],
    groups: Sequence[str],
    ks: Sequence[int],
    rng: np.random.Generator,
) -> dict[int, Interval]:
    """Change of pass@k from all samples of both runs, each read by likelihood: for runs that drew in rounds."""
    fits = []
    for measured in (before, after):
        counts = measured.sampling
        place = {problem_id: i for i, problem_id in enumerate(counts.problem_ids)}
        rows = [place[problem_id] for problem_id in ids]
        fits.append(fit_mixture(counts.num_samples[rows], counts.num_correct[rows], groups=groups))
    return {k: posterior_delta_interval(fits[0], fits[1], k, groups=groups, rng=rng) for k in ks}


def _known_outcomes(
    measured: DiagnosedBehavior, problem_ids: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Of every sample whose outcome is known: the place of its problem, whether it succeeded, and which of that problem's it is, from 0."""
    table = measured.table
    places = table.places(problem_ids)
    known = np.flatnonzero((places >= 0) & ~table.greedy & ~table.missing)
    known = known[np.argsort(places[known], kind="stable")]
    place = places[known]
    starts = np.searchsorted(place, place)  # where the samples of the same problem begin
    return place, table.succeeded(measured.behavior.measure.success)[known], np.arange(len(place)) - starts


def _compare_behavior(
    before: DiagnosedBehavior,
    after: DiagnosedBehavior,
    null: DiagnosedBehavior | None,
    *,
    halves: bool,
    margin: float,
    trained: bool,
    stage: str | None,
) -> BehaviorTransition:
    behavior, counts = before.behavior, _thinned(before, after)
    n, c0, c1, groups = counts.n, counts.before, counts.after, counts.groups
    epsilon, fewest = behavior.measure.epsilon, int(counts.n.min())
    rng = np.random.default_rng(0)
    mixtures = [fit_mixture(n, side, marks=[epsilon], groups=groups) for side in (c0, c1)]
    reach = [mixture.interval_probabilities([epsilon])[:, 1] for mixture in mixtures]
    entered, changed = (problem_change_tests(n, c0, n, c1, rate=FALSE_DISCOVERY_RATE, below=edge) for edge in (epsilon, None))
    states = classify_changes(reach[0], reach[1], entered.q_expansion, entered.q_attrition, ChangeThresholds())
    either = [np.minimum(tests.q_expansion, tests.q_attrition) for tests in (entered, changed)]
    q_values = np.where(np.minimum(c0, c1) < epsilon * n, *either)
    ks = [k for k in k_grid(fewest, behavior.measure.primary_k) if k <= fewest]
    first, last = (np.stack([pass_at_k(n, side, k) for k in ks], axis=1) for side in (c0, c1))
    deltas = max_t_deltas(first, last, groups, rng=rng, num_draws=_DRAWS)
    role = decide_role(n, c0, c1, ks, mixtures, epsilon, rng=rng)
    crossing = curve_crossing(ks, first, last, groups, rng=rng, num_draws=_DRAWS)
    equivalence = equivalence_test(first[:, 0], last[:, 0], margin, groups)
    second = None if null is None else _aligned(counts, before, null)
    never = never_solved_gain(n, c0, n, c1, groups, fresh=second)
    notes = list(role.notes)
    if not behavior.sampling.samples_the_policy:
        notes.append("Sampled with a temperature or a truncation of its own: support here is that of the deployed policy.")
    if trained:
        notes.append("One checkpoint is not a stage: the intervals leave out the spread between training seeds.")
    simultaneous = f"max-T over {len(ks)} k, bootstrap over problems"
    delta = Estimate.of(paired_delta_interval(first[:, 0], last[:, 0], groups))
    delta_curve = tuple(
        _point(k, Estimate(estimate=float(value), low=float(low), high=float(high), method=simultaneous))
        for k, value, low, high in zip(ks, deltas.estimate, deltas.low, deltas.high, strict=True)
    )
    if _in_rounds(before) or _in_rounds(after):
        grid = k_grid(behavior.measure.primary_k, behavior.measure.primary_k)
        read = _posterior_deltas(before, after, counts.ids, groups, grid, rng)
        delta, delta_curve = Estimate.of(read[1]), tuple(_point(k, Estimate.of(read[k])) for k in grid)
        notes.append(
            f"A run drew in rounds: its number of samples of a problem depends on what they showed. Changes of pass@k are read by likelihood from all "
            f"samples; tests, states, curves and support dynamics use the first {fewest} samples of every problem."
        )
    report = ComparisonReport(
        name=behavior.name,
        trained=trained,
        stage=stage if trained else None,
        num_problems=len(counts.ids),
        pass_at_1_before=Estimate.of(mean_interval(first[:, 0], groups)),
        pass_at_1_after=Estimate.of(mean_interval(last[:, 0], groups)),
        delta=delta,
        pass_at_k_delta=delta_curve,
        pass_at_k_before=_curve(ks, first, groups),
        pass_at_k_after=_curve(ks, last, groups),
        changes=tuple(
            ProblemChangeRow(
                id=id_,
                group=group,
                before=float(b),
                after=float(a),
                state=state,
                q_value=float(q_value),
                num_samples=int(samples),
            )
            for id_, group, b, a, state, q_value, samples in zip(
                counts.ids, groups, c0 / n, c1 / n, states, q_values, n, strict=True
            )
        ),
        support=support_rows(n, c0, c1, mixtures[0], halves=halves, second=second, rng=rng),
        side_by_side=_side_by_side(before, after),
        role=role.words,
        num_samples=fewest,
        detectable_rise=detectable_rise(fewest, fewest, alpha=FALSE_DISCOVERY_RATE / (2 * len(counts.ids))),
        notes=tuple(notes),
    )
    return BehaviorTransition(
        name=behavior.name,
        report=report,
        role=role,
        never_solved=never,
        crossing=crossing,
        equivalence=equivalence,
        mean_tokens=(_mean_tokens(before.table), _mean_tokens(after.table)),
    )


def _aligned(
    counts: _Counts, before: DiagnosedBehavior, null: DiagnosedBehavior
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Samples and successes of the null for the problems of `counts`; no samples where it lacks one."""
    drawn = _thinned(before, null)
    place = {problem_id: i for i, problem_id in enumerate(drawn.ids)}
    rows = np.array([place.get(problem_id, -1) for problem_id in counts.ids])
    return np.where(rows >= 0, drawn.n[rows], 0), np.where(rows >= 0, drawn.after[rows], 0)


def _curve(ks: Sequence[int], curve: npt.NDArray[np.float64], groups: Sequence[str]) -> tuple[PassAtK, ...]:
    return tuple(_point(k, Estimate.of(mean_interval(curve[:, i], groups))) for i, k in enumerate(ks))


def _point(k: int, value: Estimate) -> PassAtK:
    return PassAtK(k=k, value=value, extrapolated=False)


def _mean_tokens(rollouts: RolloutTable) -> float:
    lengths = rollouts.num_tokens[~rollouts.greedy]
    return float(lengths.mean()) if len(lengths) else float("nan")


def _side_by_side(before: DiagnosedBehavior, after: DiagnosedBehavior) -> tuple[SideBySide, ...]:
    """What may explain a difference without being the goal."""
    sides = (before.table, after.table)
    values: dict[str, list[npt.NDArray[Any]]] = {
        "generated tokens per sample": [table.num_tokens for table in sides],
        "truncated share": [table.truncated for table in sides],
        "nats per generated token": [-table.mean_policy_logprob for table in sides],
    }
    rows = []
    for name, pair in values.items():
        means = [_per_problem(table, of) for table, of in zip(sides, pair, strict=True)]
        rows.append(SideBySide(name=name, before=_spread(means[0]), after=_spread(means[1])))
    scores = [np.array([-p.policy_logprobs.astype(np.float64).mean() for p in measured.paths]) for measured in (before, after)]
    if all(len(s) for s in scores):
        rows.append(SideBySide(name="reference path, nats per token", before=_spread(scores[0]), after=_spread(scores[1])))
    return tuple(rows)


def _per_problem(rollouts: RolloutTable, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean over the samples of each problem, of values [R]; NaN is left out, and problems without a number are."""
    kept = ~rollouts.greedy & ~np.isnan(values)
    problem = rollouts.problem[kept]
    totals, counts = np.bincount(problem, weights=values[kept]), np.bincount(problem)
    means: npt.NDArray[np.float64] = totals[counts > 0] / counts[counts > 0]
    return means


def _spread(values: npt.NDArray[np.float64]) -> Estimate:
    """Mean over problems with a normal interval; these numbers are unbounded and only stand beside a result."""
    if len(values) < 2:
        value = float(values.mean()) if len(values) else float("nan")
        return Estimate(estimate=value, low=float("nan"), high=float("nan"), method="one problem")
    error = 1.96 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    mean = float(values.mean())
    return Estimate(estimate=mean, low=mean - error, high=mean + error, method="normal over problems")
