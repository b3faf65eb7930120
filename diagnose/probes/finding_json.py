"""Findings as JSON, and back: what a probe leaves in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from posttrain.diagnose.types import Finding, ProbeResult

_FINDING, _RESULT = TypeAdapter(Finding), TypeAdapter(ProbeResult)


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON."""
    return asdict(finding)


def finding_from_json(data: Mapping[str, Any]) -> Finding:
    """Return what `finding_to_json` wrote; null is NaN again in the numbers."""
    numbers = {
        name: {key: np.nan if part is None else part for key, part in number.items()} for name, number in data["numbers"].items()
    }
    return _FINDING.validate_python({**data, "numbers": numbers})


def result_to_json(answer: ProbeResult) -> dict[str, Any]:
    """Return what became of a probe as JSON."""
    if answer.finding is not None:
        return {"probe": answer.probe, "finding": finding_to_json(answer.finding)}
    return {"probe": answer.probe, "skipped": answer.skipped, "detail": answer.detail}


def result_from_json(data: Mapping[str, Any], question: str) -> ProbeResult:
    """Return what `result_to_json` wrote."""
    if "finding" in data:
        return ProbeResult(probe=data["probe"], question=question, finding=finding_from_json(data["finding"]))
    return _RESULT.validate_python({**data, "question": question})
