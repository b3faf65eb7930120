"""diagnosis.json: a diagnosis as the JSON that others read (schema 1), and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from posttrain.diagnose.types import Answer, Behavior, Check, Diagnosis, Estimate, ValidityMeasurement, decide


def diagnosis_to_json(diagnosis: Diagnosis, behavior: Behavior, answers: Sequence[Answer] = ()) -> dict[str, Any]:
    """One entry of `behaviors`; of the behavior, what a reader needs to draw the numbers: scale of measurement and groups."""
    stage = diagnosis.stage
    findings = [answer.finding for answer in answers if answer.finding is not None]
    groups = {problem.id: problem.group for problem in behavior.problems}
    return {
        "name": diagnosis.name,
        "purpose": diagnosis.purpose.value,
        "measure": asdict(behavior.measure),
        "sentence": diagnosis.sentence,
        "bottleneck": diagnosis.bottleneck.value,
        "confidence": diagnosis.confidence,
        "role": diagnosis.role.value if diagnosis.role else None,
        "shares": dict(diagnosis.shares),
        "stage": None
        if stage is None
        else {
            "name": stage.name,
            "provenance": stage.provenance,
            "interface": stage.interface,
            "why": stage.why,
            "needs": list(stage.needs),
            "predicted_gain": _range(stage.predicted_gain) if stage.predicted_gain else None,
            "alternatives": [{"name": name, "why": why} for name, why in stage.alternatives],
        },
        "checks": [check_to_json(check) for check in diagnosis.checks],
        "pass_at_k": [
            {"k": p.k, **_range(p.value), "extrapolated": p.extrapolated, "method": p.value.method} for p in diagnosis.pass_at_k
        ],
        "problems": [
            {
                "id": p.id,
                "group": groups.get(p.id),
                "split": p.split.value,
                "state": p.state.value,
                "posterior": dict(p.posterior),
                "num_samples": p.num_samples,
                "num_correct": p.num_correct,
                "num_missing": p.num_missing,
                "num_unparsed": p.num_unparsed,
                "num_truncated": p.num_truncated,
                "p": p.p,
                "p_low": p.p_low,
                "p_high": p.p_high,
                "p_method": p.p_method,
                "reference_nll_per_token": p.reference_nll_per_token,
                "prefix_needed": {"status": "not_probed", "fraction": None, "tokens": None},
                **{key: value for finding in findings for key, value in finding.problems.get(p.id, {}).items()},
            }
            for p in diagnosis.problems
        ],
        # Seconds hang on the machine of the moment and stand under cost alone, so that a resumed run gives the same file but for cost.
        "settles_with": asdict(diagnosis.settles_with) if diagnosis.settles_with else None,
        "probes": [_answer_to_json(answer, diagnosis) for answer in answers],
        "caveats": list(diagnosis.caveats),
        "cost": {
            "samples": diagnosis.cost.samples,
            "generated_tokens": diagnosis.cost.generated_tokens,
            "scored_tokens": diagnosis.cost.scored_tokens,
            "teacher_tokens": diagnosis.cost.teacher_tokens,
            "seconds": diagnosis.cost.seconds,
        },
    }


def _answer_to_json(answer: Answer, diagnosis: Diagnosis) -> dict[str, Any]:
    """What became of one probe; its numbers and the rows of its picture where it was run."""
    head = {"name": answer.probe, "question": answer.question}
    if answer.finding is None:
        return {**head, "skipped": answer.skipped_words, "skipped_code": answer.skipped}
    found = answer.finding
    return {
        **head,
        "outcome": found.outcome,
        "summary": found.summary,
        "contribution": next((c.words for c in diagnosis.contributions if c.probe == answer.probe), ""),
        "numbers": {name: {**_range(value), "method": value.method} for name, value in found.numbers.items()},
        "rows": list(found.rows),
        "notes": [note.text for note in found.notes],
        "note_codes": [note.code for note in found.notes],
        "cost": {
            "samples": found.samples,
            "generated_tokens": found.generated_tokens,
            "scored_tokens": found.scored_tokens,
            "teacher_tokens": found.teacher_tokens,
        },
    }


def check_to_json(check: Check) -> dict[str, Any]:
    """One check."""
    return {
        "name": check.name,
        "op": check.op,
        "estimate": check.estimate,
        "low": check.low,
        "high": check.high,
        "threshold": check.threshold,
        "n": check.n,
        "method": check.method,
        "outcome": check.outcome.value,
        "what": check.what,
        "unit": check.unit,
    }


def check_from_json(data: dict[str, Any]) -> Check:
    """One check, its outcome decided again."""
    values = {key: float("nan") if data[key] is None else float(data[key]) for key in ("estimate", "low", "high", "threshold")}
    outcome = decide(data["op"], values["low"], values["high"], values["threshold"])
    return Check(
        name=data["name"],
        op=data["op"],
        **values,
        n=data["n"],
        method=data["method"],
        outcome=outcome,
        what=data["what"],
        unit=data.get("unit", ""),
    )


def validity_to_json(validity: ValidityMeasurement) -> dict[str, Any]:
    """Return the content of a file in `validity/`, so that a report can be written again without the model."""
    return {
        "checks": [check_to_json(check) for check in validity.checks],
        "notes": list(validity.notes),
        "failures": list(validity.failures),
        "prompt_example": validity.prompt_example,
    }


def validity_from_json(name: str, data: dict[str, Any]) -> ValidityMeasurement:
    """Read what `validity_to_json` wrote; earlier versions named the checks `plumbing: ...`."""
    checks = (check_from_json(check) for check in data["checks"])
    return ValidityMeasurement(
        behavior=name,
        checks=tuple(replace(check, name=check.name.replace("plumbing: ", "validity: ")) for check in checks),
        notes=tuple(data["notes"]),
        failures=tuple(data["failures"]),
        prompt_example=data["prompt_example"],
    )


def _range(value: Estimate) -> dict[str, float]:
    return {"estimate": value.estimate, "low": value.low, "high": value.high}
