"""compare.json: what lies between two runs as the JSON that others read (schema 1)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from posttrain.analysis.stats import Interval
from posttrain.diagnose.types import Behavior, Estimate

if TYPE_CHECKING:
    from posttrain.diagnose.comparison.change_role import RoleVerdict
    from posttrain.diagnose.comparison.compare_runs import BehaviorTransition, Transition


def transition_to_json(transition: Transition) -> dict[str, Any]:
    """The whole file."""
    return {
        "schema": 1,
        "before": {"run": str(transition.before.path), "model": transition.before.model},
        "after": {"run": str(transition.after.path), "model": transition.after.model},
        "null": transition.null,
        "behaviors": [
            _behavior(behavior, transition.before[behavior.name].behavior, _divergences(transition, behavior.name))
            for behavior in transition.behaviors
        ],
    }


def _divergences(transition: Transition, name: str) -> dict[str, Any]:
    """What the drift probe of the run after measured against the model before, where that is what it was given as the earlier one."""
    if transition.after.settings.get("earlier") != transition.before.model["source"]:
        return {}
    findings = [one.finding for one in transition.after[name].report.answers if one.probe == "drift" and one.finding is not None]
    return {words: _number(value) for found in findings for words, value in found.numbers.items() if "KL" in words}


def _behavior(behavior: BehaviorTransition, measured: Behavior, divergences: dict[str, Any]) -> dict[str, Any]:
    report = behavior.report
    groups = {problem.id: problem.group for problem in measured.problems}
    sides = {row.name: {"before": _number(row.before), "after": _number(row.after)} for row in report.side_by_side}
    drift = {name: sides.pop(name) for name in ("reference path, nats per token", "nats per generated token") if name in sides}
    never, crossing, equivalence = behavior.never_solved, behavior.crossing, behavior.equivalence
    return {
        "name": report.name,
        "purpose": measured.purpose.value,
        "measure": asdict(measured.measure),
        "trained": report.trained,
        "stage": report.stage,
        "role_observed": behavior.role_observed,
        "role": _role(behavior.role),
        "num_problems": report.num_problems,
        "pass_at_1": {
            "before": _number(report.pass_at_1_before),
            "after": _number(report.pass_at_1_after),
            "delta": _number(report.delta),
        },
        "pass_at_k": {
            "before": [{"k": p.k, **_number(p.value)} for p in report.pass_at_k_before],
            "after": [{"k": p.k, **_number(p.value)} for p in report.pass_at_k_after],
        },
        "pass_at_k_delta": [{"k": p.k, **_number(p.value)} for p in report.pass_at_k_delta],
        "crossing": {"k": _number(crossing.k), "probability": crossing.probability},
        "equivalence": {"margin": equivalence.margin, "verdict": equivalence.verdict, **_number(equivalence.interval)},
        "never_solved": {"num_problems": never.num_problems, "naive_gain": never.naive, "gain": _number(never.gain)},
        "support": {row.name: {**_number(row.value), "null": _number(row.null)} for row in report.support},
        "drift": drift | divergences,
        "beside": sides,
        "problems": [
            {
                "id": c.id,
                "group": groups.get(c.id),
                "num_samples": c.num_samples,
                "before": c.before,
                "after": c.after,
                "state": c.state.value,
                "q_value": c.q_value,
            }
            for c in report.changes
        ],
    }


def _role(role: RoleVerdict) -> dict[str, Any]:
    tests = role.tests
    return {
        "words": role.words,
        "probability": role.probability,
        "k": role.k,
        "change": {"entered": role.entered, "moved": role.moved, "left": role.left},
        "tests": [
            {"name": name, "observed": float(observed), "expected": float(expected), "adjusted_p": float(p)}
            for name, observed, expected, p in zip(tests.names, tests.observed, tests.expected, tests.adjusted_p, strict=True)
        ],
        "notes": list(role.notes),
    }


def _number(value: Estimate | Interval) -> dict[str, Any]:
    return {"estimate": value.estimate, "low": value.low, "high": value.high, "method": value.method}
