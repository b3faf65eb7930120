"""Rollouts of verifiers before its version 1: a row per rollout in `results.jsonl`, beside a `metadata.json`.

A row has `example_id`, `prompt` and `completion` (chats, or texts), `reward`, `metrics`, `is_completed`, `is_truncated`, and may have `answer`, `info`,
`error`, `stop_condition`, `token_usage` and columns of the environment. The metadata name environment, model and sampling. prime-rl wrote the same rows
as `train_rollouts.jsonl`.

Source: PrimeIntellect-ai/verifiers, `docs/legacy/evaluation.md` and `verifiers/legacy/utils/save_utils.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.chat_messages import read_messages, read_prompt, said_last, several_turns
from posttrain.diagnose.importing.finish_import import ProblemIds, as_answer, as_answers, chosen_score, numbers_of
from posttrain.diagnose.importing.imported import ImportedSample, ReadOptions
from posttrain.diagnose.importing.source_rows import SourceRow
from posttrain.diagnose.types import StopReason

RESULTS, METADATA = "results.jsonl", "metadata.json"
_NO_SCORE = frozenset({"example_id", "is_completed", "is_truncated", "error", "completion", "prompt"})
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
    answers = as_answers(row.get("answer"))
    task = row.get("task")
    behavior = task if isinstance(task, str) and task not in ("", "default") else environment
    failed = bool(row.get("error"))
    info = row.get("info")
    return ImportedSample(
        behavior=behavior,
        problem=ids.name(row.get("example_id"), behavior, prompt, as_answer(row.get("answer")), path),
        score=None if failed else _score(row, options),
        text=said_last(completion) if completion else None if failed else "",
        prompt=prompt,
        answer=answers[0] if answers else "",
        answers=answers[1:],
        stop=StopReason.ERROR if failed else _stop(row),
        num_tokens=row.inside("token_usage").count("output_tokens"),
        turns=several_turns(completion),
        policy=policy,
        metadata={"info": info} if info else {},
    )


def rollout_id(row: SourceRow) -> str | None:
    """Return what tells a rollout from all others: its id, or how long it took; None where a row has neither."""
    if name := row.get("id") or row.get("trajectory_id"):
        return str(name)
    timing = row.get("timing")
    return repr(timing) if isinstance(timing, dict) and any(timing.values()) else None


def _score(row: SourceRow, options: ReadOptions) -> float | None:
    """Return the reward, or the metric that the user chose; versions before 0.1.9 have metrics among the other columns."""
    scores = {name: row.get(name) for name in ("reward",) if name in row.values} | row.mapping("metrics")
    if options.score is not None and options.score not in scores:
        scores |= numbers_of(row, _NO_SCORE)
    return chosen_score(scores, options.score, "reward", row.where)


def _stop(row: SourceRow) -> StopReason:
    truncated = row.get("is_truncated")
    if truncated is None:
        return StopReason.UNKNOWN
    return StopReason.LENGTH if truncated else StopReason.EOS
