"""Results of gates as data, as JSON and as lines for people."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from posttrain.diagnose.gates.required_effort import Settles
from posttrain.diagnose.types import Check, Outcome

OUTCOMES = {Outcome.MET: "met", Outcome.NOT_MET: "proven not met", Outcome.INCONCLUSIVE: "not decided"}
"""Each outcome in words."""


class UndecidedGateReason(StrEnum):
    """Why a condition is not decided, where its interval does not say it all."""

    INVALID_MEASUREMENT = "invalid_measurement"
    """The validity checks of the behavior failed, or it was not measured."""
    WORST_OF_SEVERAL = "worst_of_several"
    """Not met at 95 % alone, but not at the level that testing several conditions requires."""
    NOT_IDENTIFIED = "not_identified"
    """The samples bound the metric but do not identify it."""
    AT_THRESHOLD = "at_threshold"
    """The estimate lies at the threshold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedCondition:
    """The outcome of a condition on one behavior."""

    behavior: str
    check: Check
    level: float
    """Confidence of the interval of `check`."""
    settles: Settles | None
    """Effort that is expected to decide it; None where it is decided, or where no effort would."""
    reason: UndecidedGateReason | None
    """None where it is decided or where the interval says it all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """The outcomes of all conditions."""

    conditions: tuple[GatedCondition, ...]

    @property
    def outcome(self) -> Outcome:
        """Return not met where one condition is proven not met, met where all are met, else inconclusive."""
        outcomes = {one.check.outcome for one in self.conditions}
        if Outcome.NOT_MET in outcomes:
            return Outcome.NOT_MET
        return Outcome.MET if outcomes == {Outcome.MET} else Outcome.INCONCLUSIVE

    @property
    def exit_code(self) -> int:
        """Return 0 for met, 1 for proven not met, 3 for not decided."""
        return {Outcome.MET: 0, Outcome.NOT_MET: 1, Outcome.INCONCLUSIVE: 3}[self.outcome]


def gate_to_json(result: GateResult) -> dict[str, Any]:
    """Return what `posttrain gate --json` prints."""
    return {
        "schema": 1,
        "outcome": result.outcome.value,
        "conditions": [
            {
                "behavior": one.behavior,
                "metric": one.check.name,
                "op": one.check.op,
                "threshold": one.check.threshold,
                "estimate": _finite(one.check.estimate),
                "low": _finite(one.check.low),
                "high": _finite(one.check.high),
                "level": one.level,
                "n": one.check.n,
                "method": one.check.method,
                "outcome": one.check.outcome.value,
                "reason_code": one.reason,
                "reason": _reason_words(one) or None,
                "settles_with": None if one.settles is None else asdict(one.settles),
            }
            for one in result.conditions
        ],
    }


def describe_condition(condition: GatedCondition) -> str:
    """Describe a condition in one line: estimate, interval, threshold, outcome, and the effort that would decide it."""
    check = condition.check
    number = "+.3f" if check.name.startswith("delta") else ".3f"
    if not math.isnan(check.estimate):
        values = f"{check.estimate:{number}} [{check.low:{number}}, {check.high:{number}}]"
    elif math.isnan(check.low):
        values = "–"
    else:
        values = f"not identified [{check.low:{number}}, {check.high:{number}}]"
    text = f"{condition.behavior}: {check.name} {values} {check.op} {check.threshold:g}: {OUTCOMES[check.outcome]}"
    if words := _reason_words(condition):
        text += f" ({words})"
    if condition.settles:
        text += f"; {_effort_words(condition.settles)}"
    return text


def undecided_words(condition: GatedCondition) -> str:
    """Return why a condition is not decided and which effort would decide it; empty where it is decided."""
    reason = _reason_words(condition)
    return "; ".join(filter(None, [reason, _effort_words(condition.settles) if condition.settles else ""]))


def _reason_words(condition: GatedCondition) -> str:
    match condition.reason:
        case UndecidedGateReason.INVALID_MEASUREMENT:
            return "its measurement is invalid, so none of its numbers counts; see the validity checks in the report"
        case UndecidedGateReason.WORST_OF_SEVERAL:
            return f"not met at 95 % alone, but not at the {condition.level:.3%} that testing several conditions requires"
        case UndecidedGateReason.NOT_IDENTIFIED:
            return "the samples bound it but do not identify it; sample every problem at least as often as its k"
        case UndecidedGateReason.AT_THRESHOLD:
            return "the estimate lies at the threshold, so more of the same is not expected to decide"
        case None:
            return ""


def _effort_words(settles: Settles) -> str:
    ways = []
    if settles.samples is not None:
        tokens = f" (about {settles.tokens:,} tokens)" if settles.tokens else ""
        ways.append(f"about {settles.samples:,} more samples{tokens}")
    if settles.problems is not None:
        ways.append(f"about {settles.problems:,} problems in total")
    return "expected to decide it, if the estimate does not change: " + ", or ".join(ways)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
