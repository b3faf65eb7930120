"""The figures: name, what each needs, what it shows of a run, and its caption. `posttrain plot` and the report draw from here.

A new figure is a module in `analysis/figures/` with a drawing function of its name, and one entry here. Where it draws what a probe
found, `probe_panels` takes the rows of that probe, and the report shows it beside the probe's finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.analysis.plots import panels
from posttrain.analysis.plots.panels import Panel, Sides
from posttrain.analysis.plots.run_reader import Takes
from posttrain.analysis.plots.tables import Table, pass_at_k_table, retention_table, rows_table, support_table

_NARROW, _WIDE = 2.2, 3.2


@dataclass(frozen=True, kw_only=True, slots=True)
class FigureSpec:
    """A figure as users know it."""

    shows: str
    """What `posttrain figures` says."""
    title: str
    """Heading on a page."""
    caption: str
    """How to read it."""
    takes: Takes
    panels: Callable[[Sides], Iterable[Panel]]
    """Its panels from what was found in the folders, with the rows to draw."""
    least_width: float = _NARROW
    """Inches that a panel needs to be read; as many stand side by side as have them."""
    table: Callable[[Sequence[Mapping[str, Any]]], Table] = rows_table
    """The same numbers as a table."""
    probes: tuple[str, ...] = ()
    """The probes whose rows it draws."""
    needs: Callable[[Mapping[str, Any]], bool] = field(default=lambda _: True)
    """Whether an entry of `behaviors` has what it shows."""
    in_diagnosis: bool = False
    """Whether the report of a diagnosis shows it for every behavior."""
    in_comparison: bool = False
    """Whether the report of a comparison shows it for every behavior."""


def _probe_figure(probes: tuple[str, ...], figure: str, *, with_epsilon: bool = False, **words: Any) -> FigureSpec:
    """Return the figure of what probes found."""
    return FigureSpec(
        takes=Takes.RUNS, panels=panels.probe_panels(probes, figure, with_epsilon=with_epsilon), probes=probes, **words
    )


FIGURES: dict[str, FigureSpec] = {
    "checks": FigureSpec(
        shows="every check as estimate, interval and threshold (forest plot)",
        title="Checks",
        caption="A check is met when its whole interval lies in the shaded field, not met when all of it lies outside.",
        takes=Takes.RUNS,
        panels=panels.checks_panels,
        least_width=_WIDE,
        needs=lambda entry: bool(entry["checks"]),
        in_diagnosis=True,
    ),
    "pass_at_k": FigureSpec(
        shows="pass@k against k with bands, the extrapolated part dashed; with two runs, where the curves cross",
        title="pass@k",
        caption="Chance that at least one of k samples is right. A curve that rises far above its start means: reachable, but chosen too "
        "rarely. Of two curves, a gain that fades towards large k is reshaping, one that stays is new support.",
        takes=Takes.SIDES,
        panels=panels.pass_at_k_panels,
        table=pass_at_k_table,
        needs=lambda entry: any(point["estimate"] is not None for point in entry["pass_at_k"]),
        in_diagnosis=True,
        in_comparison=True,
    ),
    "success_histogram": FigureSpec(
        shows="how many problems have which success rate, with ε and the mastered threshold, and the fitted mixing distribution with its "
        "point masses at 0 and 1",
        title="Success per problem",
        caption="Bars: share of right samples of each problem. Points: how many problems have such a success rate by the fitted mixing "
        "distribution, with its point masses at exactly 0 and 1 at the ends. Bins are equally wide on the page; the first ends at ε.",
        takes=Takes.RUNS,
        panels=panels.success_histogram_panels,
        least_width=_WIDE,
        needs=lambda entry: any(problem["num_samples"] for problem in entry["problems"]),
        in_diagnosis=True,
    ),
    "group_signal_by_size": FigureSpec(
        shows="groups of samples that carry no learning signal, by cause and group size",
        title="Groups without signal",
        caption="Share of groups whose rewards do not differ, so that GRPO and its relatives learn nothing from them; layers are causes, the grey "
        "band is the 95 % interval of the whole.",
        takes=Takes.RUNS,
        panels=panels.group_signal_panels,
        needs=lambda entry: bool(entry.get("group_signal")),
        in_diagnosis=True,
    ),
    "pass_at_k_by_turns": FigureSpec(
        shows="success within T turns of the model against T, for samples with turns",
        title="Success by turns allowed",
        caption="Chance that at least one of k samples is right within T turns of the model, with 95 % bands. Where a curve still rises at its end, more "
        "turns may solve more; where it is flat, they do not.",
        takes=Takes.RUNS,
        panels=panels.turn_limit_panels,
        needs=lambda entry: bool(entry.get("turn_limits")),
        in_diagnosis=True,
    ),
    "step_likelihood": FigureSpec(
        shows="how improbable each step of the reference paths is",
        title="Steps of the references",
        caption="How improbable each step is, given the reference up to it. A step above the line is less likely than ε.",
        takes=Takes.RUNS,
        panels=panels.step_likelihood_panels,
        needs=lambda entry: len(entry["references"]["steps"]) > 1,
        in_diagnosis=True,
    ),
    "reference_likelihood": FigureSpec(
        shows="the typical and the least likely reference path, token by token",
        title="Reference path",
        caption="Darker tokens are less probable; the weakest step is framed.",
        takes=Takes.RUNS,
        panels=panels.reference_likelihood_panels,
        least_width=_WIDE,
        needs=lambda entry: bool(entry["references"]["num_paths"]),
        in_diagnosis=True,
    ),
    "prefix_ladder": _probe_figure(
        ("prefix_ladder",),
        "prefix_ladder",
        shows="success from the first part of a reference path, with placebos",
        title="Success from a part of a reference",
        caption="Success when the first part of a reference path is given, never as far as the answer. Where a prefix that is not the "
        "problem's own helps as much, it is not the path that helps.",
    ),
    "availability": _probe_figure(
        ("availability",),
        "availability",
        with_epsilon=True,
        shows="each step of a path: how likely its prefix is reached, against how likely the step is once there",
        title="Reach and availability",
        caption="Each step of a path: how likely its prefix is reached, against how likely the step is once there. On the left the prefix "
        "is rarely reached, at the bottom the step itself is missing.",
    ),
    "scaffold": _probe_figure(
        ("scaffold", "decoding"),
        "scaffold",
        shows="success with worked examples, a hint, a teacher's start or at another temperature, beside the baseline",
        title="Success by condition",
        caption="Success under each condition (help in the prompt, or a temperature), on the same problems, beside the baseline.",
        least_width=_WIDE,
    ),
    "drift": _probe_figure(
        ("drift",),
        "drift",
        with_epsilon=True,
        shows="success at an earlier checkpoint and now, and the change of likelihood of its right answers",
        title="Since the earlier checkpoint",
        caption="Each problem: success before and now, and how the likelihood of its right answers changed.",
    ),
    "teacher": _probe_figure(
        ("teacher",),
        "teacher",
        shows="success of student and teacher, and how likely each finds the other's answers",
        title="Student and teacher",
        caption="Success of both, and how likely each finds the other's answers.",
        least_width=_WIDE,
    ),
    "data_reach": _probe_figure(
        ("data",),
        "data_reach",
        with_epsilon=True,
        shows="rows of a data set inside and outside the policy's support",
        title="Rows of the data set",
        caption="Each row: nats per token against its least likely token. What lies below ε is out of the policy's support.",
    ),
    "before_after": FigureSpec(
        shows="success of each problem before against after, with its state",
        title="Each problem",
        caption="One marker per place; numbers count problems at the same place. Above the line is better than before.",
        takes=Takes.COMPARISONS,
        panels=panels.before_after_panels,
        needs=lambda entry: bool(entry["problems"]),
        in_comparison=True,
    ),
    "cover_at_tau": FigureSpec(
        shows="share of problems solved at rate τ or better, against τ",
        title="Cover@τ",
        caption="Share of problems solved at rate τ or better. A gain on the right is reliability, one at the very left new support.",
        takes=Takes.SIDES,
        panels=panels.cover_at_tau_panels,
        needs=lambda entry: any(problem["num_samples"] for problem in entry["problems"]),
        in_comparison=True,
    ),
    "support_transitions": FigureSpec(
        shows="problems preserved, expanded, attrited and out of support as bands, with SRR, NDR, SDS and NSCR beside their null",
        title="Support",
        caption="Where problems were and where they are; what the samples do not tell is undetermined.",
        takes=Takes.COMPARISONS,
        panels=panels.support_transitions_panels,
        least_width=_WIDE,
        table=support_table,
        needs=lambda entry: bool(entry["problems"] and entry["support"]),
        in_comparison=True,
    ),
    "support_dynamics": FigureSpec(
        shows="SRR, NDR, SDS and NSCR beside what one model sampled twice gives",
        title="Support dynamics",
        caption="Each number beside its null: what the same model gives when it is sampled twice.",
        takes=Takes.COMPARISONS,
        panels=panels.support_dynamics_panels,
    ),
    "retention": FigureSpec(
        shows="every behavior before and after with paired intervals, targets against retention",
        title="Targets and retention",
        caption="Every behavior before and after, with the interval of the paired difference.",
        takes=Takes.COMPARISONS,
        panels=panels.retention_panels,
        least_width=_WIDE,
        table=retention_table,
    ),
    "rounds": FigureSpec(
        shows="pass@1 of each behavior after each round of a loop, with the checkpoint to keep",
        title="pass@1 by round",
        caption="pass@1 with its interval at the start and after each round; retention behaviors are dashed. Lines go from each round to the one "
        "that it started from. The shaded round is that of the checkpoint to keep.",
        takes=Takes.LOOPS,
        panels=panels.rounds_panels,
        least_width=_WIDE,
    ),
    "checkpoints": FigureSpec(
        shows="pass@1 and pass@k of each behavior along the checkpoints of a training run, with bands and the checkpoint to keep",
        title="Along the checkpoints",
        caption="pass@1 and pass@k at each checkpoint. The bands of a panel hold at all checkpoints and every k at once (95 %). The shaded "
        "checkpoint is the one to keep.",
        takes=Takes.CHECKPOINTS,
        panels=panels.checkpoints_panels,
        least_width=_WIDE,
    ),
}
"""All figures, in the order in which they are listed and shown."""
