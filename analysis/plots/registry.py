"""What each figure shows of a run: from the files of runs and comparisons to panels that can be drawn.

A new figure is a drawing function in `figures/` with its line in `FIGURES`, and here a function from sides to panels with its line in
`CATALOGUE`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from posttrain.analysis.figures import FIGURES
from posttrain.analysis.figures.checks import checks_height
from posttrain.analysis.figures.reference_likelihood import strip_height
from posttrain.analysis.figures.retention import retention_height
from posttrain.analysis.figures.success_histogram import bin_edges
from posttrain.analysis.input_error import InputError
from posttrain.analysis.plots.curves import cover_rows, crossing_row, mixture_rows, step_rows
from posttrain.analysis.plots.run_reader import Side, Takes, read_paths
from posttrain.analysis.plots.tables import Table, pass_at_k_table, retention_table, rows_table, support_table

Sides = Mapping[str, Sequence[Side]]
"""Behavior → what there is of it."""


def _usual_height(width: float) -> float:
    return min(0.66 * width + 0.45, 3.4)


def _flat_height(width: float) -> float:
    return min(0.4 * width + 0.9, 2.6)


def _square_height(width: float) -> float:
    return min(width + 0.05, 3.6)


def _fixed_height(inches: float) -> Callable[[float], float]:
    return lambda _: inches


@dataclass(frozen=True, slots=True)
class Panel:
    """One axes of a figure."""

    name: str
    """What tells it from the other panels."""
    draw: Callable[..., Axes]
    """Called with `ax`, `title`, and where `needs_width` with the `width` in inches."""
    height: Callable[[float], float] = _usual_height
    """Inches that it needs at a width in inches."""
    needs_width: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A figure as users know it."""

    shows: str
    takes: Takes
    panels: Callable[[Sides], list[Panel]]
    least_width: float
    """Inches that a panel needs to be read; as many stand side by side as have them."""
    table: Callable[[Sequence[Mapping[str, Any]]], Table] = rows_table
    """The same numbers as a table."""


def _pass_at_k(found: Sides) -> list[Panel]:
    panels = []
    for name, sides in found.items():
        series = {side.label: side.need("pass_at_k") for side in sides}
        draw = partial(FIGURES["pass_at_k"], series, primary_k=_shared_k(sides), crossing=_crossing(sides))
        panels.append(Panel(name, draw))
    return panels


def _crossing(sides: Sequence[Side]) -> Mapping[str, Any] | None:
    """Where two curves cross: as the comparison says that holds both, else from their problems."""
    if len(sides) != 2:
        return None
    stored = sides[0].behavior.get("crossing")
    if stored and sides[0].folder == sides[1].folder:
        k = stored["k"]
        found = {"k": k["estimate"], "k_low": k["low"], "k_high": k["high"], "probability": stored["probability"]}
        return None if found["k"] is None else found
    return crossing_row(sides[0].need("problems"), sides[1].need("problems"), _shared_k(sides) or 1)


def _shared_k(sides: Sequence[Side]) -> int | None:
    """The primary k, where all sides have the same."""
    ks = {side.behavior.get("measure", {}).get("primary_k") for side in sides}
    return ks.pop() if len(ks) == 1 else None


def _cover_at_tau(found: Sides) -> list[Panel]:
    return [
        Panel(name, partial(FIGURES["cover_at_tau"], {side.label: cover_rows(side.need("problems")) for side in sides}))
        for name, sides in found.items()
    ]


def _success_histogram(found: Sides) -> list[Panel]:
    panels = []
    for name, sides in found.items():
        thresholds = {(side.need("measure")["epsilon"], side.settings["thresholds"]["mastered"]) for side in sides}
        if len(thresholds) > 1:
            raise InputError(f"{name}: the runs have different thresholds {sorted(thresholds)}; draw them one at a time")
        epsilon, mastered = thresholds.pop()
        edges = bin_edges(epsilon, mastered)
        rates = {side.label: [_rate(row) for row in side.need("problems")] for side in sides}
        mixture = {side.label: mixture_rows(side.need("problems"), edges, (epsilon, mastered)) for side in sides}
        draw = partial(FIGURES["success_histogram"], rates, epsilon=epsilon, mastered=mastered, mixture=mixture)
        panels.append(Panel(name, draw))
    return panels


def _rate(problem: Mapping[str, Any]) -> float:
    return problem["num_correct"] / problem["num_samples"] if problem["num_samples"] else math.nan


def _single(found: Sides) -> list[tuple[str, Side]]:
    """One panel per behavior and side, named by what tells them apart."""
    return [(name if len(sides) == 1 else f"{name}, {side.label}", side) for name, sides in found.items() for side in sides]


def _checks(found: Sides) -> list[Panel]:
    panels = []
    for name, side in _single(found):
        rows = side.need("checks")
        panels.append(Panel(name, partial(FIGURES["checks"], rows), _fixed_height(checks_height(rows))))
    return panels


def _step_likelihood(found: Sides) -> list[Panel]:
    panels = []
    for name, side in _single(found):
        rows = step_rows([(path["token_steps"], path["policy_logprobs"]) for path in read_paths(side)])
        line = -math.log(side.need("measure")["epsilon"])
        draw = partial(FIGURES["step_likelihood"], rows, nats_at_epsilon=line, interval_name="median, middle 80 % of paths")
        panels.append(Panel(name, draw))
    return panels


def _reference_likelihood(found: Sides) -> list[Panel]:
    panels = []
    for name, side in _single(found):
        paths = read_paths(side)
        order = np.argsort([-np.mean(path["policy_logprobs"]) for path in paths], kind="stable")
        chosen = {"typical": int(order[(len(order) - 1) // 2]), "least likely": int(order[-1])}
        for which, index in chosen.items():
            if which != "typical" and index in list(chosen.values())[:1]:
                continue
            path = paths[index]
            tokens, steps = path["token_texts"], path["token_steps"]
            draw = partial(FIGURES["reference_likelihood"], tokens, path["policy_logprobs"], steps=steps)
            height = partial(strip_height, tokens, steps)
            panels.append(Panel(f"{name}: {which} path, {path['problem_id']}", draw, height, needs_width=True))
    return panels


def _found_by(
    probes: Sequence[str], figure: str, *, height: Callable[[float], float] = _usual_height, line: bool = False
) -> Callable[[Sides], list[Panel]]:
    """Panels of what probes found; `line` says whether the figure draws one at ε."""

    def panels(found: Sides) -> list[Panel]:
        made = []
        for name, side in _single(found):
            more = {"epsilon": side.need("measure")["epsilon"]} if line else {}
            for entry in side.need("probes"):
                if entry["name"] in probes and entry.get("rows"):
                    title = name if len(probes) == 1 else f"{name}: {entry['name']}"
                    made.append(Panel(title, partial(FIGURES[figure], entry["rows"], **more), height))
        if not made:
            folders = ", ".join(dict.fromkeys(str(side.folder) for sides in found.values() for side in sides))
            raise InputError(
                f"{folders}: no probe {' or '.join(probes)} was run there; measure again with `posttrain diagnose ... --probes {probes[0]}`"
            )
        return made

    return panels


def _before_after(found: Sides) -> list[Panel]:
    return [Panel(name, partial(FIGURES["before_after"], side.need("problems")), _square_height) for name, side in _single(found)]


def _support_transitions(found: Sides) -> list[Panel]:
    """The bands, and beside them the four numbers with their null."""
    panels = []
    for (name, side), dynamics in zip(_single(found), _support_dynamics(found), strict=True):
        counts = Counter(str(row["state"]) for row in side.need("problems"))
        panels.append(Panel(name, partial(FIGURES["support_transitions"], counts), _flat_height))
        panels.append(Panel(f"{name}: beside the null", dynamics.draw, _flat_height))
    return panels


def _support_dynamics(found: Sides) -> list[Panel]:
    panels = []
    for name, side in _single(found):
        rows = [
            {
                "name": key,
                **{part: row.get(part) for part in ("estimate", "low", "high")},
                **{f"null_{part}": row["null"][part] for part in ("estimate", "low", "high")},
            }
            for key, row in side.need("support").items()
        ]
        panels.append(Panel(name, partial(FIGURES["support_dynamics"], rows), _flat_height))
    return panels


def _retention(found: Sides) -> list[Panel]:
    sides = [side for of_behavior in found.values() for side in of_behavior]
    trains = {side.folder for side in sides if side.behavior.get("trained")}
    rows = []
    for side in sides:
        entry, change = side.behavior, side.need("pass_at_1")
        rows.append(
            {
                "run": side.label,
                "behavior": entry["name"],
                "group": _group(entry, side.folder in trains),
                **{
                    side + suffix: change[side][part]
                    for side in ("before", "after")
                    for suffix, part in (("", "estimate"), ("_low", "low"), ("_high", "high"))
                },
                **{part: change["delta"][part] for part in ("estimate", "low", "high")},
                "n": entry.get("num_problems"),
            }
        )
    if all(row["group"] == "target" for row in rows):
        raise InputError(
            f"{', '.join(dict.fromkeys(str(side.folder) for side in sides))}: compares targets alone ({', '.join(found)}), so there is "
            "nothing to retain; measure a behavior with `purpose: retention` in both runs and compare again, or draw before_after"
        )
    return [Panel("", partial(FIGURES["retention"], rows), _fixed_height(retention_height(rows)))]


def _group(entry: Mapping[str, Any], something_was_trained: bool) -> str:
    if entry.get("purpose") == "retention":
        return "retention"
    return "beside" if something_was_trained and not entry.get("trained") else "target"


_NARROW, _WIDE = 2.2, 3.2

CATALOGUE: dict[str, Entry] = {
    "pass_at_k": Entry(
        "pass@k against k with bands, the extrapolated part dashed; with two runs, where the curves cross",
        Takes.SIDES, _pass_at_k, _NARROW, pass_at_k_table,
    ),
    "cover_at_tau": Entry("share of problems solved at rate τ or better, against τ", Takes.SIDES, _cover_at_tau, _NARROW),
    "success_histogram": Entry(
        "how many problems have which success rate, with ε and the mastered threshold, and the fitted mixture with its heaps at 0 and 1",
        Takes.RUNS, _success_histogram, _WIDE,
    ),
    "checks": Entry("every check as estimate, interval and threshold (forest plot)", Takes.RUNS, _checks, _WIDE),
    "step_likelihood": Entry("how improbable each step of the reference paths is", Takes.RUNS, _step_likelihood, _NARROW),
    "reference_likelihood": Entry(
        "the typical and the least likely reference path, token by token", Takes.RUNS, _reference_likelihood, _WIDE
    ),
    "prefix_ladder": Entry(
        "success from the first part of a reference path, with placebos", Takes.RUNS, _found_by(["prefix_ladder"], "prefix_ladder"), _NARROW
    ),
    "availability": Entry(
        "each step of a path: how likely its prefix is reached, against how likely the step is once there", Takes.RUNS,
        _found_by(["availability"], "availability", line=True), _NARROW,
    ),
    "scaffold": Entry(
        "success with worked examples, a hint, a teacher's start or at another temperature, beside the bare prompt", Takes.RUNS,
        _found_by(["scaffold", "decoding"], "scaffold"), _WIDE,
    ),
    "drift": Entry("success at an earlier checkpoint and now, and what became of its right answers", Takes.RUNS, _found_by(["drift"], "drift", line=True), _NARROW),
    "teacher": Entry("success of student and teacher, and how likely each finds the other's answers", Takes.RUNS, _found_by(["teacher"], "teacher"), _WIDE),
    "data_reach": Entry("rows of a data set inside and outside the policy's support", Takes.RUNS, _found_by(["data"], "data_reach", line=True), _NARROW),
    "before_after": Entry("success of each problem before against after, with its state", Takes.COMPARISONS, _before_after, _NARROW),
    "support_transitions": Entry(
        "problems preserved, expanded, attrited and out of support as bands, with SRR, NDR, SDS and NSCR beside their null",
        Takes.COMPARISONS, _support_transitions, _WIDE, support_table,
    ),
    "support_dynamics": Entry("SRR, NDR, SDS and NSCR beside what one model drawn twice gives", Takes.COMPARISONS, _support_dynamics, _NARROW),
    "retention": Entry(
        "every behavior before and after with paired intervals, targets against retention", Takes.COMPARISONS, _retention, _WIDE,
        retention_table,
    ),
}  # fmt: skip
"""All figures that `posttrain plot` draws, in the order in which they are listed."""
