"""Before against after, paired by problem, with what two draws of the *same* model would show beside it.

"Not seen in n draws" moves with n, and some problems without a success show one when the same model is drawn again. So both runs are
thinned to the same samples per problem, support dynamics (arXiv 2507.14843) stand beside their null, and a problem is called expanded
or attrited only when its own test says so under a false-discovery rate over all problems and both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import (
    Interval,
    fit_mixture,
    k_grid,
    mean_interval,
    paired_delta_interval,
    pass_at_k,
    problem_change_tests,
    support_dynamics,
    support_dynamics_null,
)
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.probes import sampling
from posttrain.diagnose.report.content import ComparisonReport, ProblemChangeRow, ReportContent, SideBySide, SupportRow
from posttrain.diagnose.session import DiagnosedRun, MeasuredBehavior, assemble
from posttrain.diagnose.store import RunDirectory, write_json
from posttrain.diagnose.types import Estimate, PassAtK, ProblemChange, Rollout
from posttrain.diagnose.verdict import as_estimate

FALSE_DISCOVERY_RATE = 0.05
_SURE = 0.95
"""Posterior probability from which a problem counts as in, or out of, support."""
_NULL_DRAWS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviorTransition:
    """What a stage did to one behavior."""

    name: str
    report: ComparisonReport
    """The numbers, for reports and for compare.json."""
    role_observed: str
    """`support_expansion`, `policy_reshaping`, `attrition` or `not_distinguishable` (from drawing the same model again)."""
    mean_tokens: tuple[float, float]
    """Generated tokens per sample, before and after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """What lies between two runs."""

    before: DiagnosedRun
    after: DiagnosedRun
    behaviors: tuple[BehaviorTransition, ...]

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
    null: str | Path | DiagnosedRun | None = None,
    trained: Sequence[str] = (),
    stage: str | None = None,
    page: bool = True,
    command: str = "",
) -> Transition:
    """Compare two runs on the behaviors that both measured, and write compare.json and a report to `out`.

    Args:
        before: A run directory, or a run.
        after: The same, measured with the same behaviors and split.
        out: Folder for compare.json, report.html and report.md.
        null: A second draw of the model before (another seed); without it the null is predicted from the fitted mixture.
        trained: Names of the behaviors that the stage in between was trained on.
        stage: Its name.
        page: Whether to write report.html and report.md too.
        command: What to print under "how to reproduce".

    Raises:
        RunError: the runs share no behavior, or measured it differently, or null repeats the very samples of `before`.
    """
    runs = [run if isinstance(run, DiagnosedRun) else assemble(run) for run in (before, after)]
    second = None if null is None else null if isinstance(null, DiagnosedRun) else assemble(null)
    _check_comparable(runs[0], runs[1])
    common = [m.behavior.name for m in runs[0].behaviors if m.behavior.name in runs[1].settings["behaviors"]]
    # A behavior that was not sampled, because its verifier failed the self-test, has nothing to compare.
    shared = [name for name in common if _thinned(runs[0][name], runs[1][name]).ids]
    if not shared:
        raise RunError(
            f"compare: {', '.join(common)} has no problem with samples in both {runs[0].path} and {runs[1].path}; "
            "look at the plumbing section of their reports"
        )
    if second is not None:
        _check_comparable(runs[0], second)
        lacking = sorted(set(shared) - set(second.settings["behaviors"]))
        if lacking:
            raise RunError(f"compare: --null {second.path} did not measure {', '.join(lacking)}; measure the same behaviors")
    transition = Transition(
        before=runs[0],
        after=runs[1],
        behaviors=tuple(
            _compare_behavior(runs[0][name], runs[1][name], second[name] if second else None, name in trained, stage)
            for name in shared
        ),
    )
    write_json(Path(out) / "compare.json", to_json(transition))
    if page:
        _write_report(Path(out), transition, shared, command)
    return transition


def _write_report(out: Path, transition: Transition, shared: Sequence[str], command: str) -> None:
    from posttrain.diagnose.report import write_report

    after = transition.after
    record = RunDirectory(after.path).read_json()
    write_report(
        out,
        ReportContent(
            title="Before and after",
            model=f"{transition.before.model['source']} → {after.model['source']}",
            date=record["created"],
            command=command or f"posttrain compare {transition.before.path} {after.path} --out {out}",
            settings={key: value for key, value in after.settings.items() if key != "behaviors"},
            versions=record["versions"],
            behaviors=tuple(after[name].report for name in shared),
            comparisons=tuple(behavior.report for behavior in transition.behaviors),
            checkpoint=str(after.model["source"]),
            measured_in=str(after.path),
        ),
    )


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
    # Equal texts alone prove nothing, a mastered behavior writes the same in every draw; equal draws have one seed and one model.
    if all(before.settings[key] == after.settings[key] for key in ("seed", "model_fingerprint", "engine")):
        raise RunError(
            f"compare: the rollouts in {before.path} and {after.path} are identical, one model and one seed, and one draw says nothing "
            "against itself; use another --seed for a second draw"
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """Samples and successes of the problems that both runs sampled, the same number of samples on both sides."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    n: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]


def _thinned(before: MeasuredBehavior, after: MeasuredBehavior) -> _Counts:
    """The first samples of each problem, as many as both runs have."""

    def outcomes(measured: MeasuredBehavior) -> dict[str, list[bool]]:
        found: dict[str, list[bool]] = {}
        for rollout in measured.rollouts:
            success = rollout.succeeded(measured.behavior.measure.success)
            if rollout.decoding == sampling.SAMPLED and success is not None:
                found.setdefault(rollout.problem_id, []).append(success)
        return found

    one, two = outcomes(before), outcomes(after)
    problems = [p for p in before.behavior.problems if one.get(p.id) and two.get(p.id)]
    n = [min(len(one[p.id]), len(two[p.id])) for p in problems]
    return _Counts(
        ids=tuple(p.id for p in problems),
        groups=tuple(p.group or p.id for p in problems),
        n=np.array(n, dtype=np.int64),
        before=np.array([sum(one[p.id][:m]) for p, m in zip(problems, n, strict=True)], dtype=np.int64),
        after=np.array([sum(two[p.id][:m]) for p, m in zip(problems, n, strict=True)], dtype=np.int64),
    )


def _compare_behavior(
    before: MeasuredBehavior, after: MeasuredBehavior, null: MeasuredBehavior | None, trained: bool, stage: str | None
) -> BehaviorTransition:
    behavior, counts = before.behavior, _thinned(before, after)
    name, epsilon, k = behavior.name, behavior.measure.epsilon, behavior.measure.primary_k
    if not counts.ids:
        raise RunError(f"compare: {name} has no problem with samples in both runs; look at the plumbing section of their reports")
    rng = np.random.default_rng(0)
    mixtures = [fit_mixture(counts.n, side) for side in (counts.before, counts.after)]
    reach = [mixture.state_probabilities([epsilon])[:, 1] for mixture in mixtures]
    tests = problem_change_tests(counts.n, counts.before, counts.n, counts.after)
    states = [
        _state(b, a, up, down) for b, a, up, down in zip(reach[0], reach[1], tests.q_expansion, tests.q_attrition, strict=True)
    ]
    ks = [k_ for k_ in k_grid(int(counts.n.min()), k) if k_ <= int(counts.n.min())]
    curves = [{k_: pass_at_k(counts.n, side, k_) for k_ in ks} for side in (counts.before, counts.after)]
    delta = paired_delta_interval(curves[0][1], curves[1][1], counts.groups)
    dynamics = support_dynamics(counts.n, counts.before, counts.n, counts.after)
    if null is None:
        predicted = support_dynamics_null(mixtures[0], counts.n, counts.n, rng=rng, num_draws=_NULL_DRAWS)
        nulls = {key: as_estimate(getattr(predicted, key)) for key in ("srr", "ndr", "sds", "nscr")}
    else:
        again = _thinned(before, null)
        drawn = support_dynamics(again.n, again.before, again.n, again.after)
        nulls = {key: _exactly(getattr(drawn, key), "second draw of the model before") for key in ("srr", "ndr", "sds", "nscr")}
    rates = counts.before / counts.n, counts.after / counts.n
    report = ComparisonReport(
        name=name,
        trained=trained,
        stage=stage if trained else None,
        num_problems=len(counts.ids),
        pass_at_1_before=as_estimate(mean_interval(curves[0][1], counts.groups)),
        pass_at_1_after=as_estimate(mean_interval(curves[1][1], counts.groups)),
        delta=as_estimate(delta),
        pass_at_k_delta=tuple(
            PassAtK(
                k=k_, value=as_estimate(paired_delta_interval(curves[0][k_], curves[1][k_], counts.groups)), extrapolated=False
            )
            for k_ in ks
        ),
        pass_at_k_before=tuple(
            PassAtK(k=k_, value=as_estimate(mean_interval(curves[0][k_], counts.groups)), extrapolated=False) for k_ in ks
        ),
        pass_at_k_after=tuple(
            PassAtK(k=k_, value=as_estimate(mean_interval(curves[1][k_], counts.groups)), extrapolated=False) for k_ in ks
        ),
        changes=tuple(
            ProblemChangeRow(id=i, before=float(b), after=float(a), state=state, q_value=float(min(up, down)))
            for i, b, a, state, up, down in zip(counts.ids, *rates, states, tests.q_expansion, tests.q_attrition, strict=True)
        ),
        support=tuple(
            SupportRow(
                name=key.upper(), value=_exactly(getattr(dynamics, key), f"counted at n = {int(counts.n.min())}"), null=nulls[key]
            )
            for key in ("srr", "ndr", "sds", "nscr")
        ),
        side_by_side=_side_by_side(before, after),
        notes=("One checkpoint is not a stage: the intervals leave out the spread between training seeds.",) if trained else (),
    )
    return BehaviorTransition(
        name=name,
        report=report,
        role_observed=_role(delta, rates[1] - rates[0], 1 - reach[0]),
        mean_tokens=(_mean_tokens(before.rollouts), _mean_tokens(after.rollouts)),
    )


def _state(reach_before: float, reach_after: float, q_up: float, q_down: float) -> ProblemChange:
    """Where a problem was and is, if the data can tell."""
    if q_up <= FALSE_DISCOVERY_RATE and reach_before < 1 - reach_before and reach_after >= _SURE:
        return ProblemChange.EXPANDED
    if q_down <= FALSE_DISCOVERY_RATE and reach_after < 1 - reach_after and reach_before >= _SURE:
        return ProblemChange.ATTRITED
    if reach_before >= _SURE and reach_after >= _SURE:
        return ProblemChange.PRESERVED
    if reach_before <= 1 - _SURE and reach_after <= 1 - _SURE:
        return ProblemChange.OUT_OF_SUPPORT
    return ProblemChange.UNDETERMINED


def _role(delta: Interval, change: npt.NDArray[np.float64], outside_before: npt.NDArray[np.float64]) -> str:
    """What the stage did: a sure gain is expansion when most of it lies on problems that were out of support, else reshaping."""
    if delta.high < 0:
        return "attrition"
    if delta.low <= 0:
        return "not_distinguishable"
    from_outside = float((change * outside_before).sum() / change.sum())
    return "support_expansion" if from_outside > 0.5 else "policy_reshaping"


def _mean_tokens(rollouts: Sequence[Rollout]) -> float:
    lengths = [len(r.token_ids) for r in rollouts if r.decoding == sampling.SAMPLED]
    return float(np.mean(lengths)) if lengths else float("nan")


def _side_by_side(before: MeasuredBehavior, after: MeasuredBehavior) -> tuple[SideBySide, ...]:
    """What may explain a difference without being the goal."""
    rows = []
    for name, of in (
        ("generated tokens per sample", lambda r: float(len(r.token_ids))),
        ("truncated share", lambda r: float(r.truncated)),
        (
            "nats per generated token",
            lambda r: float(-r.policy_logprobs.astype(np.float64).mean()) if len(r.policy_logprobs) else float("nan"),
        ),
    ):
        values = [_per_problem(measured.rollouts, of) for measured in (before, after)]
        rows.append(SideBySide(name=name, before=_spread(values[0]), after=_spread(values[1])))
    scores = [np.array([-p.policy_logprobs.astype(np.float64).mean() for p in measured.paths]) for measured in (before, after)]
    if all(len(s) for s in scores):
        rows.append(SideBySide(name="reference path, nats per token", before=_spread(scores[0]), after=_spread(scores[1])))
    return tuple(rows)


def _per_problem(rollouts: Sequence[Rollout], of: Any) -> npt.NDArray[np.float64]:
    values: dict[str, list[float]] = {}
    for rollout in rollouts:
        if rollout.decoding == sampling.SAMPLED:
            values.setdefault(rollout.problem_id, []).append(of(rollout))
    return np.array([np.nanmean(v) for v in values.values()])


def _spread(values: npt.NDArray[np.float64]) -> Estimate:
    """Mean over problems with a normal interval; these numbers are unbounded and only stand beside a result."""
    if len(values) < 2:
        value = float(values.mean()) if len(values) else float("nan")
        return Estimate(estimate=value, low=float("nan"), high=float("nan"), method="one problem")
    error = 1.96 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    mean = float(values.mean())
    return Estimate(estimate=mean, low=mean - error, high=mean + error, method="normal over problems")


def _exactly(value: float, method: str) -> Estimate:
    return Estimate(estimate=value, low=value, high=value, method=method)


def to_json(transition: Transition) -> dict[str, Any]:
    """compare.json, schema 1."""
    return {
        "schema": 1,
        "before": {"run": str(transition.before.path), "model": transition.before.model},
        "after": {"run": str(transition.after.path), "model": transition.after.model},
        "behaviors": [_behavior_to_json(behavior) for behavior in transition.behaviors],
    }


def _behavior_to_json(behavior: BehaviorTransition) -> dict[str, Any]:
    report = behavior.report

    def number(value: Estimate) -> dict[str, Any]:
        return {"estimate": value.estimate, "low": value.low, "high": value.high, "method": value.method}

    sides = {row.name: {"before": number(row.before), "after": number(row.after)} for row in report.side_by_side}
    drift = {name: sides.pop(name) for name in ("reference path, nats per token", "nats per generated token") if name in sides}
    return {
        "name": report.name,
        "trained": report.trained,
        "stage": report.stage,
        "role_observed": behavior.role_observed,
        "num_problems": report.num_problems,
        "pass_at_1": {
            "before": number(report.pass_at_1_before),
            "after": number(report.pass_at_1_after),
            "delta": number(report.delta),
        },
        "pass_at_k_delta": [{"k": p.k, **number(p.value)} for p in report.pass_at_k_delta],
        "support": {
            row.name: {"estimate": row.value.estimate, "method": row.value.method, "null": number(row.null)}
            for row in report.support
        },
        "drift": drift,
        "beside": sides,
        "problems": [
            {"id": c.id, "before": c.before, "after": c.after, "state": c.state.value, "q_value": c.q_value}
            for c in report.changes
        ],
    }
