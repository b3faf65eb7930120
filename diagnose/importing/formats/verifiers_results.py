"""Rollouts of verifiers before its version 1: a row per rollout in `results.jsonl`, beside a `metadata.json`.

A row has `example_id`, `prompt` and `completion` (chats, or texts), `reward`, `metrics`, `is_completed`, `is_truncated`, and may have `answer`, `info`,
`error`, `stop_condition`, `token_usage` and columns of the environment. The metadata name environment, model and sampling. prime-rl wrote the same rows
as `train_rollouts.jsonl`.

Source: PrimeIntellect-ai/verifiers, `docs/legacy/evaluation.md` and `verifiers/legacy/utils/save_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import read_messages, read_prompt, said_last, several_turns
from posttrain.diagnose.importing.finish_import import ProblemIds, chosen_score
from posttrain.diagnose.importing.imported import ImportedSample, ReadOptions
from posttrain.diagnose.importing.source_rows import SourceRow, read_number
from posttrain.diagnose.types import StopReason

RESULTS, METADATA = "results.jsonl", "metadata.json"
WANTED = "results.jsonl of a verifiers evaluation, or its folder"


def read_metadata(results: Path) -> dict[str, Any]:
    """Return what stands in the `metadata.json` beside a file of results; nothing where there is none.

    Raises:
        SourceError: It is no JSON object (`invalid_json`).
    """
    path = results.parent / METADATA
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})", code="invalid_json") from None
    if not isinstance(found, dict):
        raise SourceError(f"{path}: got no JSON object", code="invalid_json")
    return found


def read_result(
    row: SourceRow, path: Path, environment: str, ids: ProblemIds, options: ReadOptions, policy: str = ""
) -> ImportedSample:
    """Return the rollout of one row.

    Args:
        row: The row.
        path: Its file.
        environment: What the behavior is called where the row names no task.
        ids: Of problems, of all files.
        options: `score` names a metric that counts instead of the reward.
        policy: Step of a training run.

    Raises:
        SourceError: It is no such row.
    """
    row.require("prompt", "completion", wanted=WANTED)
    prompt = read_prompt(row.get("prompt"), f"{row.where}: prompt")
    completion = () if row.get("completion") is None else read_messages(row.get("completion"), f"{row.where}: completion")
    answer = row.get("answer")
    answer = "" if answer is None else answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    task = row.get("task")
    behavior = task if isinstance(task, str) and task not in ("", "default") else environment
    failed = bool(row.get("error"))
    info = row.get("info")
    return ImportedSample(
        behavior=behavior,
        problem=ids.name(row.get("example_id"), behavior, prompt, answer, path),
        score=None if failed else _score(row, options),
        text=said_last(completion) if completion else None if failed else "",
        prompt=prompt,
        answer=answer,
        stop=StopReason.ERROR if failed else _stop(row),
        num_tokens=_generated(row.mapping("token_usage"), row.where),
        turns=several_turns(completion),
        policy=policy,
        metadata={"info": info} if info else {},
    )


def _score(row: SourceRow, options: ReadOptions) -> float | None:
    metrics = {name: read_number(value, f"{row.where}: metrics: {name}") for name, value in row.mapping("metrics").items()}
    reward = {"reward": row.number("reward")} if "reward" in row.values else {}
    return chosen_score(reward | metrics, options.score, "reward", row.where)


def _stop(row: SourceRow) -> StopReason:
    truncated = row.get("is_truncated")
    if truncated is None:
        return StopReason.UNKNOWN
    return StopReason.LENGTH if truncated else StopReason.EOS


def _generated(usage: Mapping[str, Any], where: str) -> int | None:
    tokens = read_number(usage.get("output_tokens"), f"{where}: token_usage")
    return None if tokens is None else int(tokens)
