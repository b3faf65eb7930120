"""Findings as JSON, and back: what a probe leaves in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from posttrain.diagnose.types import Bottleneck, Estimate, Finding, LabelEvidence, Note, ProbeResult, SkipReason


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON."""
    return asdict(finding)


def finding_from_json(data: Mapping[str, Any]) -> Finding:
    """Return what `finding_to_json` wrote; null is NaN again. Files of earlier versions have no outcome and no codes of notes."""
    fields = {"outcome": "", **data}
    evidence = fields.pop("arguments", ())  # the name of `evidence` in files of earlier versions
    return Finding(
        **{
            **fields,
            "numbers": {name: _estimate(value) for name, value in data["numbers"].items()},
            "rows": tuple(data["rows"]),
            "evidence": tuple(
                LabelEvidence(
                    label=Bottleneck(one["label"]),
                    instead_of=tuple(Bottleneck(label) for label in one["instead_of"]),
                    confidence=one["confidence"],
                    because=one["because"],
                )
                for one in data.get("evidence", evidence)
            ),
            "notes": tuple(Note(code="", text=one) if isinstance(one, str) else Note(**one) for one in data["notes"]),
        }
    )


def result_to_json(answer: ProbeResult) -> dict[str, Any]:
    """Return what became of a probe as JSON."""
    if answer.finding is not None:
        return {"probe": answer.probe, "finding": finding_to_json(answer.finding)}
    return {"probe": answer.probe, "skipped": answer.skipped, "detail": answer.detail}


def result_from_json(data: Mapping[str, Any], question: str) -> ProbeResult:
    """Return what `result_to_json` wrote; files of earlier versions hold a sentence in place of the reason."""
    if "finding" in data:
        return ProbeResult(probe=data["probe"], question=question, finding=finding_from_json(data["finding"]))
    if data["skipped"] in set(SkipReason):
        reason, detail = SkipReason(data["skipped"]), data.get("detail", "")
    else:
        reason, detail = SkipReason.NOT_SUPPORTED, data["skipped"]
    return ProbeResult(probe=data["probe"], question=question, skipped=reason, detail=detail)


def _estimate(value: Mapping[str, Any]) -> Estimate:
    parts = {key: np.nan if value[key] is None else float(value[key]) for key in ("estimate", "low", "high")}
    return Estimate(**parts, method=value["method"])
