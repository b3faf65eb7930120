"""What scored paths say: numbers, rows, words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.analysis.stats import jeffreys_intervals, mean_interval
from posttrain.diagnose.probes.availability import steps
from posttrain.diagnose.probes.availability.steps import OWN, REFERENCE, AvailabilityOutcome, Binding, SteppedPath
from posttrain.diagnose.probes.base import Finding, Note, ProbeContext
from posttrain.diagnose.types import Estimate


def make_finding(context: ProbeContext, paths: Sequence[SteppedPath], margins: Mapping[str, float]) -> Finding:
    """Return what scored paths say.

    Args:
        context: Of the probe.
        paths: Reference paths and own right samples.
        margins: As from `answer_margins`.
    """
    epsilon = context.behavior.measure.epsilon
    bound = [steps.bind(path.log_local, epsilon) for path in paths]
    return Finding(
        outcome=_outcome(paths, bound),
        summary=_summary(paths, bound),
        numbers=_numbers(context, paths, bound, margins),
        rows=tuple(row for path, binding in zip(paths, bound, strict=True) for row in _rows(path, binding)),
        problems=_per_problem(paths, bound),
        notes=Note.all(_notes(context, paths, margins)),
    )


def _rows(path: SteppedPath, binding: Binding) -> list[dict[str, Any]]:
    return [
        {
            "problem": path.problem.id,
            "path": path.path,
            "step": step + 1,
            "steps": len(path.log_local),
            "log_reach": float(path.log_reach[step]),
            "log_local": float(path.log_local[step]),
            "worst_rank": int(path.worst_rank[step]),
            "removed_by": ", ".join(path.removed_by[step]),
            "class": binding.kind,
            "binds": step == binding.step and binding.kind != AvailabilityOutcome.REACHABLE,
        }
        for step in range(len(path.log_local))
    ]


def _per_problem(paths: Sequence[SteppedPath], bound: Sequence[Binding]) -> dict[str, dict[str, Any]]:
    """Return what binds the reference path of each problem, and the tries it would take."""
    return {
        path.problem.id: {
            "availability": {
                "class": binding.kind,
                "step": binding.step + 1,
                "steps": len(path.log_local),
                "tries_to_pass_step": num_tries(binding.log_reach + binding.log_local),
                "tries_of_step_alone": num_tries(binding.log_local),
                "tries_of_path": num_tries(float(path.log_local.sum())),
            }
        }
        for path, binding in zip(paths, bound, strict=True)
        if path.path == REFERENCE
    }


def num_tries(log_probability: float) -> float:
    """Return 1/p, at most 10^15: beyond, only "never" can be meant."""
    return float(f"{np.exp(min(-log_probability, np.log(1e15))):.4g}")


def _numbers(
    context: ProbeContext, paths: Sequence[SteppedPath], bound: Sequence[Binding], margins: Mapping[str, float]
) -> dict[str, Estimate]:
    level = context.thresholds.level
    numbers = {}
    for kind in (REFERENCE, OWN):
        mine = [(path, binding) for path, binding in zip(paths, bound, strict=True) if path.path == kind]
        if not mine:
            continue
        groups = [path.group for path, _ in mine]
        words = "reference paths" if kind == REFERENCE else "own right samples"
        if kind == REFERENCE:
            for which in steps.KINDS:
                values = [float(binding.kind is which) for _, binding in mine]
                numbers[f"{words}: {which.replace('_', ' ')}"] = Estimate.of(mean_interval(values, groups, level=level))
        for name in steps.TRUNCATIONS:
            values = [float(any(name in removed for removed in path.removed_by)) for path, _ in mine]
            numbers[f"{words} that {name} removes"] = Estimate.of(mean_interval(values, groups, level=level))
    if margins:
        groups_of = dict(zip(context.counts.problem_ids, context.counts.groups, strict=True))
        groups = [groups_of[problem_id] for problem_id in margins]
        nats = np.array(list(margins.values()))
        reach = max(1.0, float(np.abs(nats).max()))
        numbers["margin of the right answer, nats"] = Estimate.of(
            mean_interval(nats, groups, level=level, low=-reach, high=reach)
        )
        numbers["right answer likelier than a wrong one"] = Estimate.of(
            mean_interval((nats > 0).astype(np.float64), groups, level=level)
        )
    return numbers


def _outcome(paths: Sequence[SteppedPath], bound: Sequence[Binding]) -> AvailabilityOutcome:
    """Say what binds most of the paths that `_summary` describes."""
    kind = REFERENCE if any(path.path == REFERENCE for path in paths) else OWN
    kinds = [binding.kind for path, binding in zip(paths, bound, strict=True) if path.path == kind]
    if not kinds:
        return AvailabilityOutcome.NO_PATHS
    held = Counter(one for one in kinds if one != AvailabilityOutcome.REACHABLE)
    return held.most_common(1)[0][0] if held else AvailabilityOutcome.REACHABLE


def _summary(paths: Sequence[SteppedPath], bound: Sequence[Binding]) -> str:
    """Write which step binds, and why, in numbers of tries; of the references, or of own samples where there are none."""
    kind = REFERENCE if any(path.path == REFERENCE for path in paths) else OWN
    mine = [(path, binding) for path, binding in zip(paths, bound, strict=True) if path.path == kind]
    if not mine:
        return "No right path is known, so nothing can be said of steps."
    what = "reference paths" if kind == REFERENCE else "own right samples"
    kinds = Counter(binding.kind for _, binding in mine)
    held = [(path, binding) for path, binding in mine if binding.kind != AvailabilityOutcome.REACHABLE]
    if not held:
        (rarest,) = _typical([float(path.log_local.sum()) for path, _ in mine])
        return f"Nothing binds: all {len(mine)} {what} are likely enough to be sampled, typically in 1 of {rarest} tries."
    (step, kind_of), most = Counter((b.step, b.kind) for _, b in held).most_common(1)[0]
    chosen = [(p, b) for p, b in held if (b.step, b.kind) == (step, kind_of)]
    reach, local, whole = _typical(
        [b.log_reach for _, b in chosen], [b.log_local for _, b in chosen], [float(p.log_local.sum()) for p, _ in chosen]
    )
    part = "step" if chosen[0][0].whole_steps else "part"
    lengths = {len(p.log_local) for p, _ in chosen}
    where = f"{part} {step + 1}" + (f" of {lengths.pop()}" if len(lengths) == 1 else "")
    match kind_of:
        case AvailabilityOutcome.FIRST_STEP:
            head = f"{where} binds in {most} of {len(mine)} {what}: nothing but the prompt stands before it, and it is taken in 1 of {local} tries"
        case AvailabilityOutcome.STEP:
            head = f"{where} binds in {most} of {len(mine)} {what}: its prefix is reached in 1 of {reach} tries, the {part} itself is taken in 1 of {local}"
        case _:
            head = (
                f"the chain binds in {most} of {len(mine)} {what}: no {part} is out of reach where it breaks, but the whole path is taken only in 1 of {whole} tries; "
                f"{where} loses the most (1 of {local})"
            )
    names = dict(zip(steps.KINDS, (f"first {part}", f"a later {part}", "the chain", "nothing"), strict=True))
    shares = ", ".join(f"{names[name]} {kinds[name]}" for name in steps.KINDS if kinds[name])
    return f"{head[0].upper()}{head[1:]}. What binds, in number of paths: {shares}."


def _typical(*logs: Sequence[float]) -> list[str]:
    """Return 1/p of the median path, rounded to what people read."""
    return [_round_number(num_tries(float(np.median(values)))) for values in logs]


def _round_number(value: float) -> str:
    if value >= 1e9:
        return "more than a billion"
    digits = 1 if value >= 100 else 0 if value < 10 else 1
    scale = 10 ** max(0, int(np.log10(value)) - digits)
    return f"{round(value / scale) * scale:,}"


def _notes(context: ProbeContext, paths: Sequence[SteppedPath], margins: Mapping[str, float]) -> dict[str, str]:
    notes: dict[str, str] = {}
    factor = context.thresholds.availability.many_paths
    references = {path.problem.id: float(path.log_local.sum()) for path in paths if path.path == REFERENCE}
    own = {path.problem.id: float(path.log_local.sum()) for path in paths if path.path == OWN}
    both = sorted(references.keys() & own.keys())
    if both:
        gap = float(np.median([own[i] - references[i] for i in both]))
        if gap > np.log(factor):
            notes["goes_other_ways"] = (
                f"On {len(both)} problems with both, the model's own right samples are typically e^{gap:.0f} times as likely as the reference: it "
                "goes other ways, and what binds the reference need not bind the problem."
            )
    low, _ = jeffreys_intervals(context.counts.num_samples, context.counts.num_correct, level=context.thresholds.level)
    totals = _log_probability_of_references(context)
    solved = [i for i, p in enumerate(context.problems) if p.id in totals and context.counts.num_correct[i] > 0]
    many = [i for i in solved if low[i] > 0 and np.log(low[i]) > totals[context.problems[i].id] + np.log(factor)]
    if many:
        notes["many_right_paths"] = (
            f"Many right paths: {len(many)} of {len(solved)} solved problems are solved at least {factor:.0f} times as often as their "
            "reference paths are likely. There a path's likelihood says little of success."
        )
    if margins:
        nats = np.array(list(margins.values()))
        interval = mean_interval((nats > 0).astype(np.float64), level=context.thresholds.level)
        if interval.low <= 0.5:
            notes["style_not_knowledge"] = (
                f"Style, not knowledge: with another problem's answer in it the same path is as likely or likelier in {int((nats <= 0).sum())} of "
                f"{len(nats)} problems, so a likely path does not show that its answer is known."
            )
    if any(path.path == REFERENCE for path in paths) and not any(path.whole_steps for path in paths):
        notes["references_without_steps"] = (
            f"The references have no steps: they are cut into {steps.CHUNKS} parts of equally many tokens."
        )
    return notes


def _log_probability_of_references(context: ProbeContext) -> dict[str, float]:
    """Return problem id → log-probability of all its reference paths together."""
    totals: dict[str, float] = {}
    for path in context.paths.paths if context.paths is not None else ():
        value = float(path.policy_logprobs.astype(np.float64).sum())
        totals[path.problem_id] = float(np.logaddexp(totals.get(path.problem_id, -np.inf), value))
    return totals
