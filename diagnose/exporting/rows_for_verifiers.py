"""Rows of a data set for an environment of verifiers, which prime-rl trains on: prompt, answer, info, task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from posttrain.diagnose.exporting.export_rows import ExportOptions, graded_problems
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun


def verifiers_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield one row per problem; `info` is JSON in a text, so that every row has the same columns. Errors as `graded_problems`."""
    for row in graded_problems(run, options):
        info = {
            "problem_id": row.problem.id,
            "answers": list(row.problem.answers),
            "pass_rate": row.pass_rate,
            "metadata": dict(row.problem.metadata),
        }
        yield {
            "prompt": row.messages,
            "answer": row.problem.answer,
            "info": json.dumps(info, ensure_ascii=False, default=str),
            "task": row.behavior.name,
        }
