"""Rows for verl, as its preprocessing scripts write them: data_source, prompt, ability, reward_model, extra_info."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from posttrain.diagnose.exporting.export_rows import ExportOptions, graded_problems
from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
from posttrain.diagnose.types import Split

_ABILITIES = {"math": "math", "number": "math", "python": "code", "code": "code"}
"""By the kind of the verifier; `general` else."""


def verl_rows(run: DiagnosedRun, options: ExportOptions) -> Iterator[dict[str, Any]]:
    """Yield one row per problem, `data_source` being the behavior and `ground_truth` its answer; errors as `graded_problems`.

    `extra_info` also holds what a reward function may need: the problem's id, its further answers and its metadata as JSON, and its pass rate.
    """
    for index, row in enumerate(graded_problems(run, options)):
        yield {
            "data_source": row.behavior.name,
            "prompt": row.messages,
            "ability": _ABILITIES.get(row.behavior.verifier.kind, "general"),
            "reward_model": {"style": "rule", "ground_truth": row.problem.answer},
            "extra_info": {
                "split": "train" if row.problem.split is Split.TRAIN else "test",
                "index": index,
                "problem_id": row.problem.id,
                "answers": json.dumps(row.problem.answers, ensure_ascii=False),
                "metadata": json.dumps(dict(row.problem.metadata), ensure_ascii=False, default=str),
                "pass_rate": row.pass_rate,
            },
        }
