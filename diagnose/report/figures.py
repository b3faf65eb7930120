"""Which figures a report shows, drawn from its content."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from posttrain.analysis.figures import FIGURES
from posttrain.analysis.figures.success_histogram import bin_edges
from posttrain.analysis.plots.curves import cover_rows, mixture_rows, step_rows
from posttrain.diagnose.report.content import BehaviorReport, ComparisonReport, ProblemChangeRow
from posttrain.diagnose.types import Answer, PassAtK, PathLikelihoodMeasurement, PathScore, ProblemDiagnosis, Split


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportFigure:
    """A drawn figure and the words that go with it."""

    name: str
    """File name without suffix, unique within its behavior."""
    title: str
    caption: str
    axes: Axes


def pass_at_k_rows(points: Sequence[PassAtK]) -> list[dict[str, Any]]:
    """The points of a curve with the keys of `diagnosis.json`."""
    return [{"k": point.k, **asdict(point.value), "extrapolated": point.extrapolated} for point in points]


def eval_problems(problems: Sequence[ProblemDiagnosis]) -> list[ProblemDiagnosis]:
    """The problems that a verdict speaks of: those of eval, or all where none is."""
    return [problem for problem in problems if problem.split is Split.EVAL] or list(problems)


def behavior_figures(report: BehaviorReport) -> tuple[ReportFigure, ...]:
    """The figures of a behavior; those that would have nothing to show are left out."""
    diagnosis = report.diagnosis
    figures = []
    if diagnosis.checks:
        axes = FIGURES["checks"]([{**asdict(check), "outcome": check.outcome.value} for check in diagnosis.checks])
        caption = "A check is met when its whole interval lies in the shaded field, not met when all of it lies outside."
        figures.append(ReportFigure(name="checks", title="Checks", caption=caption, axes=axes))
    if any(math.isfinite(point.value.estimate) for point in diagnosis.pass_at_k):
        axes = FIGURES["pass_at_k"]({diagnosis.name: pass_at_k_rows(diagnosis.pass_at_k)}, primary_k=report.primary_k)
        caption = "Chance that one of k samples is right. Rising far above its start means: reachable, but chosen too rarely."
        figures.append(ReportFigure(name="pass_at_k", title="pass@k", caption=caption, axes=axes))
    problems = eval_problems(diagnosis.problems)
    if any(problem.num_samples for problem in problems):
        figures.append(_histogram(report, problems))
    if report.path is not None and report.path.paths:
        figures.extend(_path_figures(report.path, report.epsilon))
    return tuple(figures)


_OF_PROBES: dict[str, tuple[str, str, str]] = {
    "prefix_ladder": (
        "prefix_ladder",
        "Success from a part of a reference",
        (
            "Success when the first part of a reference path is given, never as far as the answer. Where a prefix that is not the problem's own "
            "helps as much, it is not the path that helps."
        ),
    ),
    "availability": (
        "availability",
        "Reach and availability",
        (
            "Each step of a path: how likely its prefix is to be reached, against how likely the step is once there. To the left the way is long, "
            "at the bottom the step itself is missing."
        ),
    ),
    "decoding": ("scaffold", "Temperatures", "Success at each temperature, on the same problems."),
    "scaffold": (
        "scaffold",
        "With and without help",
        "Success with each help, on the same problems, beside what the bare prompt gives.",
    ),
    "drift": (
        "drift",
        "Since the earlier checkpoint",
        "Each problem: success before and now, and how the likelihood of its right answers changed.",
    ),
    "teacher": ("teacher", "Student and teacher", "Success of both, and how likely each finds the other's answers."),
    "data": (
        "data_reach",
        "Rows of the data set",
        "Each row: nats per token against its least likely token. What lies below ε is out of the policy's support.",
    ),
}
"""Probe → its figure, and that figure's title and caption."""
_WITH_EPSILON = ("availability", "data_reach", "drift")


def probe_figures(answer: Answer, report: BehaviorReport) -> tuple[ReportFigure, ...]:
    """The picture of what a probe found, where there is one."""
    if answer.finding is None or not answer.finding.rows or answer.probe not in _OF_PROBES:
        return ()
    figure, title, caption = _OF_PROBES[answer.probe]
    more = {"epsilon": report.epsilon} if figure in _WITH_EPSILON else {}
    axes = FIGURES[figure](answer.finding.rows, **more)
    return (ReportFigure(name=answer.probe, title=title, caption=caption, axes=axes),)


def _histogram(report: BehaviorReport, problems: Sequence[ProblemDiagnosis]) -> ReportFigure:
    name, marks = report.diagnosis.name, (report.epsilon, report.mastered_threshold)
    groups = dict(zip(report.sampling.problem_ids, report.sampling.groups, strict=True)) if report.sampling else {}
    counts = [
        {"id": p.id, "group": groups.get(p.id), "num_samples": p.num_samples, "num_correct": p.num_correct} for p in problems
    ]
    axes = FIGURES["success_histogram"](
        {name: [p.num_correct / p.num_samples if p.num_samples else math.nan for p in problems]},
        epsilon=report.epsilon,
        mastered=report.mastered_threshold,
        mixture={name: mixture_rows(counts, bin_edges(*marks), marks)},
    )
    caption = (
        "Bars: share of right samples of each problem. Points: how many problems have such a success rate by the fitted mixture, with its "
        "heaps at exactly 0 and 1 at the ends. Bins are drawn equally wide; the first ends at ε."
    )
    return ReportFigure(name="success_histogram", title="Success per problem", caption=caption, axes=axes)


def _path_figures(path: PathLikelihoodMeasurement, epsilon: float) -> list[ReportFigure]:
    order = np.argsort(np.nan_to_num(path.nll_per_token, nan=-np.inf), kind="stable")
    typical, least = int(order[(len(order) - 1) // 2]), int(order[-1])
    figures = []
    rows = step_rows([(score.token_steps, score.policy_logprobs) for score in path.paths])
    if len(rows) > 1:
        axes = FIGURES["step_likelihood"](rows, nats_at_epsilon=-math.log(epsilon), interval_name="median, middle 80 % of paths")
        caption = "How improbable each step is, given the reference up to it. A step above the line is less likely than ε."
        figures.append(ReportFigure(name="step_likelihood", title="Steps of the references", caption=caption, axes=axes))
    figures.append(_strip(path, typical, "reference_likelihood", "Typical reference path", "median likelihood per token"))
    if least != typical:
        figures.append(
            _strip(path, least, "reference_likelihood_least", "Least likely reference path", "lowest likelihood per token")
        )
    return figures


def _strip(path: PathLikelihoodMeasurement, index: int, name: str, title: str, which: str) -> ReportFigure:
    score: PathScore = path.paths[index]
    axes = FIGURES["reference_likelihood"](
        score.token_texts,
        score.policy_logprobs,
        steps=[int(step) for step in score.token_steps],
        weakest_step=int(path.weakest_step[index]),
    )
    of_how_many = f"Problem {score.problem_id}: of {len(path.paths)} paths the one of {which}."
    caption = f"{of_how_many} Darker tokens are less probable; the weakest step is framed."
    return ReportFigure(name=name, title=title, caption=caption, axes=axes)


def comparison_figures(report: ComparisonReport) -> tuple[ReportFigure, ...]:
    """The figures of a comparison; those that would have nothing to show are left out."""
    figures = []
    if report.pass_at_k_before and report.pass_at_k_after:
        axes = FIGURES["pass_at_k"](
            {"before": pass_at_k_rows(report.pass_at_k_before), "after": pass_at_k_rows(report.pass_at_k_after)}
        )
        caption = "A gain that fades towards large k speaks for reshaping, one that stays for new support."
        figures.append(ReportFigure(name="pass_at_k", title="pass@k before and after", caption=caption, axes=axes))
    if report.changes:
        rows = [
            {"id": change.id, "before": change.before, "after": change.after, "state": change.state.value}
            for change in report.changes
        ]
        caption = "One marker per place; numbers count problems at the same place. Above the line is better than before."
        figures.append(
            ReportFigure(name="before_after", title="Each problem", caption=caption, axes=FIGURES["before_after"](rows))
        )
        figures.extend(_cover(report.changes))
        counts = Counter(change.state.value for change in report.changes)
        caption = "Where problems were and where they are; what the samples do not tell is undetermined."
        axes = FIGURES["support_transitions"](counts)
        figures.append(ReportFigure(name="support_transitions", title="Support", caption=caption, axes=axes))
    return tuple(figures)


def _cover(changes: Sequence[ProblemChangeRow]) -> list[ReportFigure]:
    """Cover@τ before and after, where the rates are counts."""
    known = [(change, change.num_samples) for change in changes if change.num_samples]
    if not known:
        return []
    sides = {
        side: cover_rows(
            [
                {"id": change.id, "group": change.group, "num_samples": n, "num_correct": round(getattr(change, side) * n)}
                for change, n in known
            ]
        )
        for side in ("before", "after")
    }
    caption = "Share of problems solved at rate τ or better. A gain on the right is reliability, one at the very left new reach."
    return [
        ReportFigure(name="cover_at_tau", title="Cover@τ before and after", caption=caption, axes=FIGURES["cover_at_tau"](sides))
    ]
