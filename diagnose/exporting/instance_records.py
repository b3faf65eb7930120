"""Instance records of Every Eval Ever (arXiv 2606.14516), version 0.3.0 of its schema: one per sample.

A sample that could not be graded has `error`, so that a reader can tell it from a wrong one, which its score of 0 alone would not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from posttrain.diagnose.exporting.export_rows import ExportOptions, chosen_behaviors, refuse_without_texts
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior, DiagnosedRun
from posttrain.diagnose.storage.rollout_table import SAMPLED
from posttrain.diagnose.types import Message, Problem, Rollout

SCHEMA_VERSION = "0.3.0"


def every_eval_ever_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield a record of every sample; greedy ones, which are no samples of the policy, are left out.

    Raises:
        RunError: The run is imported from a source without texts (`no_texts`).
        SettingsError: As `chosen_behaviors`.
    """
    refuse_without_texts(run)
    for measured in chosen_behaviors(run, options):
        problems = {problem.id: problem for problem in measured.behavior.problems}
        for rollout in measured.table.all_rows():
            if rollout.decoding == SAMPLED:
                yield _record(run, measured, problems[rollout.problem_id], rollout)


def _record(run: DiagnosedRun, measured: DiagnosedBehavior, problem: Problem, rollout: Rollout) -> dict[str, Any]:
    right, model = rollout.succeeded(measured.behavior.measure.success), str(run.model.get("source", "unknown"))
    raw, references = _text(problem.prompt), list(problem.accepted_answers) if problem.answer else []
    grade, tokens = rollout.grade, len(rollout.token_ids)
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"posttrain/{model}/{run.run.created}",
        "model_id": model,
        "evaluation_name": measured.behavior.name,
        "sample_id": problem.id,
        "sample_hash": hashlib.sha256((raw + "".join(references)).encode("utf-8", "replace")).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": raw, "reference": references},
        "output": {"raw": [rollout.text]},
        "answer_attribution": _attribution(rollout, measured.behavior.verifier.kind),
        "evaluation": {"score": float(grade.score or 0.0), "is_correct": bool(right)},
        "metadata": {
            "sample_index": str(rollout.sample_index),
            "decoding": rollout.decoding,
            "stop": rollout.stop.value,
            "status": grade.status.value,
            **({"output_tokens": str(tokens)} if tokens else {}),
        },
    }
    return record if right is not None else {**record, "error": grade.detail or grade.status.value}


def _attribution(rollout: Rollout, verifier: str) -> list[dict[str, Any]]:
    if rollout.grade.extracted is None:
        return []
    return [
        {
            "turn_idx": 0,
            "source": "output.raw",
            "extracted_value": rollout.grade.extracted,
            "extraction_method": verifier,
            "is_terminal": True,
        }
    ]


def _text(prompt: str | tuple[Message, ...]) -> str:
    """Return a prompt as one text: what the last turn asks, behind the turns before it."""
    return prompt if isinstance(prompt, str) else "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
