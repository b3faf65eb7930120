"""Panels of figures: what one axes shows of a run, as rows and options taken from diagnosis.json or compare.json.

Matplotlib is imported when a panel is drawn, not when it is made.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from posttrain.analysis.input_error import InputError
from posttrain.analysis.plots.run_reader import Side

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Sides = Mapping[str, Sequence[Side]]
"""Behavior → what there is of it."""


def usual_height(width: float) -> float:
    """Return the height of a plot of two scales, inches."""
    return min(0.66 * width + 0.45, 3.4)


def flat_height(width: float) -> float:
    """Return the height of a plot of a few rows, inches."""
    return min(0.4 * width + 0.9, 2.6)


def square_height(width: float) -> float:
    """Return the height of a plot with the same scale on both axes, inches."""
    return min(width + 0.05, 3.6)


@dataclass(frozen=True, slots=True)
class Panel:
    """One axes of a figure."""

    name: str
    """What tells it from the other panels."""
    figure: str
    """The module of `posttrain.analysis.figures` that draws it, and the function of the same name in it."""
    data: Any
    """What that function takes first."""
    options: Mapping[str, Any] = field(default_factory=dict)
    height: Callable[[float], float] = usual_height
    """Inches that it needs at a width in inches."""
    needs_width: bool = False
    """Whether it is laid out for a width in inches."""
    note: str = ""
    """What a page says of it before the caption of the figure."""

    def draw(self, **options: Any) -> Axes:
        """Draw it, into `ax` where one is given."""
        module = importlib.import_module(f"posttrain.analysis.figures.{self.figure}")
        axes: Axes = getattr(module, self.figure)(self.data, **self.options, **options)
        return axes


def pass_at_k_panels(found: Sides) -> list[Panel]:
    """Return the curves of all sides, one panel per behavior."""
    return [
        Panel(
            name,
            "pass_at_k",
            {side.label: side.need("pass_at_k") for side in sides},
            {"primary_k": _shared_k(sides), "crossing": _crossing(sides)},
        )
        for name, sides in found.items()
    ]


def _crossing(sides: Sequence[Side]) -> Mapping[str, Any] | None:
    """Return where two curves cross: as the comparison says that holds both, else from their problems."""
    from posttrain.analysis.plots.curves import crossing_row

    if len(sides) != 2:
        return None
    stored = sides[0].behavior.get("crossing")
    if stored and sides[0].folder == sides[1].folder:
        k = stored["k"]
        found = {"k": k["estimate"], "k_low": k["low"], "k_high": k["high"], "probability": stored["probability"]}
        return None if found["k"] is None else found
    return crossing_row(sides[0].need("problems"), sides[1].need("problems"), _shared_k(sides) or 1)


def _shared_k(sides: Sequence[Side]) -> int | None:
    """Return the primary k, where all sides have the same."""
    ks = {side.behavior.get("measure", {}).get("primary_k") for side in sides}
    return ks.pop() if len(ks) == 1 else None


def cover_at_tau_panels(found: Sides) -> list[Panel]:
    """Return Cover@τ of all sides, one panel per behavior."""
    from posttrain.analysis.plots.curves import cover_rows

    return [
        Panel(name, "cover_at_tau", {side.label: cover_rows(side.need("problems")) for side in sides})
        for name, sides in found.items()
    ]


def success_histogram_panels(found: Sides) -> Iterator[Panel]:
    """Yield success rates per problem and the fitted mixing distribution, one panel per behavior."""
    from posttrain.analysis.figures.success_histogram import bin_edges
    from posttrain.analysis.plots.curves import mixture_rows

    for name, sides in found.items():
        thresholds = {(side.need("measure")["epsilon"], side.settings["thresholds"]["mastered"]) for side in sides}
        if len(thresholds) > 1:
            raise InputError(
                f"{name}: the runs have different thresholds {sorted(thresholds)}; draw them one at a time",
                code="different_thresholds",
            )
        epsilon, mastered = thresholds.pop()
        edges = bin_edges(epsilon, mastered)
        problems = {side.label: eval_problems(side.need("problems")) for side in sides}
        rates = {label: [_rate(row) for row in rows] for label, rows in problems.items()}
        mixture = {label: mixture_rows(rows, edges) for label, rows in problems.items()}
        options = {"epsilon": epsilon, "mastered": mastered, "mixture": mixture}
        yield Panel(name, "success_histogram", rates, options)


def group_signal_panels(found: Sides) -> Iterator[Panel]:
    """Yield the groups without signal by group size, one panel per behavior."""
    for name, side in each_side(found):
        entry = side.need("group_signal")
        if entry is None:
            raise InputError(f"{side.folder}: no sample of {name} has a grade; grade the samples", code="no_grades")
        rows = [
            {
                "group_size": share["group_size"],
                **{part: share["total"][part] for part in ("estimate", "low", "high")},
                **{cause: part["estimate"] for cause, part in share["causes"].items()},
            }
            for share in entry["shares"]
        ]
        yield Panel(name, "group_signal_by_size", rows, {"group_size": entry["group_size"]})


def turn_limit_panels(found: Sides) -> Iterator[Panel]:
    """Yield pass@(k, T) by the turns allowed, one panel per behavior whose samples took more than one."""
    having = [(name, side) for name, side in each_side(found) if side.need("turn_limits")]
    if not having:
        folders = ", ".join(dict.fromkeys(str(side.folder) for sides in found.values() for side in sides))
        raise InputError(
            f"{folders}: no sample took more than one turn of the model; give a run of samples with turns, such as imported traces of an agent",
            code="no_turns",
        )
    for name, side in having:
        rows = [
            {"turns": limit["turns"], **{key: point[key] for key in ("k", "estimate", "low", "high")}}
            for limit in side.need("turn_limits")
            for point in limit["pass_at_k"]
        ]
        yield Panel(name, "pass_at_k_by_turns", rows)


def eval_problems(problems: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the problems that a verdict is about: those of eval, or all where none is."""
    return [row for row in problems if row.get("split") == "eval"] or list(problems)


def _rate(problem: Mapping[str, Any]) -> float:
    return problem["num_correct"] / problem["num_samples"] if problem["num_samples"] else math.nan


def each_side(found: Sides) -> list[tuple[str, Side]]:
    """Return every behavior of every side, named by what tells them apart."""
    return [(name if len(sides) == 1 else f"{name}, {side.label}", side) for name, sides in found.items() for side in sides]


def checks_panels(found: Sides) -> Iterator[Panel]:
    """Yield the checks of every behavior."""
    from posttrain.analysis.figures.checks import checks_height

    for name, side in each_side(found):
        rows = side.need("checks")
        yield Panel(name, "checks", rows, height=_fixed_height(checks_height(rows)))


def _fixed_height(inches: float) -> Callable[[float], float]:
    return lambda _: inches


def step_likelihood_panels(found: Sides) -> Iterator[Panel]:
    """Yield how improbable each step of the reference paths is."""
    for name, side in each_side(found):
        options = {"nats_at_epsilon": -math.log(side.need("measure")["epsilon"])}
        yield Panel(name, "step_likelihood", _references(side)["steps"], options)


def reference_likelihood_panels(found: Sides) -> Iterator[Panel]:
    """Yield the typical and the least likely reference path of every behavior, token by token."""
    from posttrain.analysis.figures.reference_likelihood import strip_height

    for name, side in each_side(found):
        references = _references(side)
        for path in references["excerpts"]:
            steps, words = path["steps"], {"typical": "median", "least_likely": "lowest"}[path["which"]]
            yield Panel(
                f"{name}: {path['which'].replace('_', ' ')} path, {path['problem_id']}",
                "reference_likelihood",
                path["tokens"],
                {
                    "logprobs": [math.nan if value is None else value for value in path["logprobs"]],
                    "steps": steps,
                    "weakest_step": path.get("weakest_step"),
                },
                partial(strip_height, path["tokens"], steps),
                needs_width=True,
                note=f"Problem {path['problem_id']}: the path of {words} likelihood per token, of {references['num_paths']}.",
            )


def _references(side: Side) -> Mapping[str, Any]:
    """Return the scored reference paths of a behavior.

    Raises:
        InputError: None was scored.
    """
    references: Mapping[str, Any] = side.need("references")
    if not references["num_paths"]:
        raise InputError(
            f"{side.folder}: holds no scored reference path of {side.behavior['name']}; give its problems `references` and measure again",
            code="no_references",
        )
    return references


def probe_panels(probes: Sequence[str], figure: str, *, with_epsilon: bool = False) -> Callable[[Sides], Iterable[Panel]]:
    """Return the function that makes panels of what probes found.

    Args:
        probes: Names of probes whose rows the figure draws.
        figure: The figure.
        with_epsilon: Whether the figure has a line at ε.
    """

    def panels(found: Sides) -> list[Panel]:
        made = []
        for name, side in each_side(found):
            options = {"epsilon": side.need("measure")["epsilon"]} if with_epsilon else {}
            for entry in side.need("probes"):
                if entry["name"] in probes and entry.get("rows"):
                    title = name if len(probes) == 1 else f"{name}: {entry['name']}"
                    made.append(Panel(title, figure, entry["rows"], options))
        if not made:
            folders = ", ".join(dict.fromkeys(str(side.folder) for sides in found.values() for side in sides))
            raise InputError(
                f"{folders}: no probe {' or '.join(probes)} was run there; measure again with `posttrain diagnose ... --probes {probes[0]}`",
                code="probe_not_run",
            )
        return made

    return panels


def before_after_panels(found: Sides) -> list[Panel]:
    """Return the success of each problem before against after."""
    return [Panel(name, "before_after", side.need("problems"), height=square_height) for name, side in each_side(found)]


def support_transitions_panels(found: Sides) -> Iterator[Panel]:
    """Yield the bands, and beside them the four numbers with their null."""
    for (name, side), dynamics in zip(each_side(found), support_dynamics_panels(found), strict=True):
        counts = Counter(str(row["state"]) for row in side.need("problems"))
        yield Panel(name, "support_transitions", counts, height=flat_height)
        yield Panel(f"{name}: beside the null", dynamics.figure, dynamics.data, height=flat_height)


def support_dynamics_panels(found: Sides) -> Iterator[Panel]:
    """Yield SRR, NDR, SDS and NSCR with their null."""
    for name, side in each_side(found):
        rows = [
            {
                "name": key,
                **{part: row.get(part) for part in ("estimate", "low", "high")},
                **{f"null_{part}": row["null"][part] for part in ("estimate", "low", "high")},
            }
            for key, row in side.need("support").items()
        ]
        yield Panel(name, "support_dynamics", rows, height=flat_height)


def retention_panels(found: Sides) -> list[Panel]:
    """Return every behavior before and after, in one panel."""
    from posttrain.analysis.figures.retention import retention_height

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
                    when + suffix: change[when][part]
                    for when in ("before", "after")
                    for suffix, part in (("", "estimate"), ("_low", "low"), ("_high", "high"))
                },
                **{part: change["delta"][part] for part in ("estimate", "low", "high")},
                "n": entry.get("num_problems"),
            }
        )
    if all(row["group"] == "target" for row in rows):
        raise InputError(
            f"{', '.join(dict.fromkeys(str(side.folder) for side in sides))}: compares targets alone ({', '.join(found)}), so there is "
            "nothing to retain; measure a behavior with `purpose: retention` in both runs and compare again, or draw before_after",
            code="nothing_to_retain",
        )
    return [Panel("", "retention", rows, height=_fixed_height(retention_height(rows)))]


def rounds_panels(found: Sides) -> Iterator[Panel]:
    """Yield pass@1 of every behavior after each round, one panel per loop."""
    sides = [side for of_behavior in found.values() for side in of_behavior]
    for folder in dict.fromkeys(side.folder for side in sides):
        mine = [side for side in sides if side.folder == folder]
        origins, stages = mine[0].settings["started_from"], mine[0].settings["stages"]
        rows = [
            {
                "behavior": side.behavior["name"],
                "group": side.behavior["purpose"],
                "round": point["round"],
                "from": origins[point["round"] - 1] if point["round"] else None,
                **{part: point[part] for part in ("estimate", "low", "high")},
            }
            for side in mine
            for point in side.need("pass_at_1")
        ]
        yield Panel(mine[0].label, "rounds", rows, {"stages": stages, "kept": mine[0].settings["kept"]})


def checkpoints_panels(found: Sides) -> Iterator[Panel]:
    """Yield pass@1 and pass@k along the checkpoints, one panel per behavior."""
    for name, side in each_side(found):
        steps = side.settings["steps"]
        rising = all(step is not None for step in steps) and all(a < b for a, b in pairwise(steps))
        shown_k = side.need("shown_k")
        rows = [
            {
                "checkpoint": label,
                "place": step if rising else place,
                "k": at_k["k"],
                **{part: at_k[part] for part in ("estimate", "low", "high")},
            }
            for place, (label, step, point) in enumerate(zip(side.settings["labels"], steps, side.need("points"), strict=True))
            for at_k in point["pass_at_k"]
            if at_k["k"] in (1, shown_k)
        ]
        yield Panel(name, "checkpoints", rows, {"steps": rising, "kept": side.settings["kept"]})


def _group(entry: Mapping[str, Any], trained: bool) -> str:
    """Return what a behavior of a comparison is there for; `trained` says whether a stage was trained between its runs."""
    if entry.get("purpose") == "retention":
        return "retention"
    return "beside" if trained and not entry.get("trained") else "target"
