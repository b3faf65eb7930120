"""Problems from a parquet file: in a published layout, or as verl's reinforcement-learning trainers read it.

A row of verl's holds the prompt as a chat, what the reward function compares with, and notes about the problem:

    {"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": "..."}], "ability": "math",
     "reward_model": {"style": "rule", "ground_truth": "72"}, "extra_info": {"split": "train", "index": 0}}

Its reward function stays behind: the behavior's verifier reads the answers, and the ground truth is what it compares with.

Source: https://verl.readthedocs.io/en/latest/preparation/prepare_data.html.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain.diagnose.behaviors.problem_rows import ProblemFile, Row, read_problem_objects, read_prompt
from posttrain.diagnose.behaviors.published_layouts import find_layout
from posttrain.diagnose.behaviors.row_files import RowError, read_table
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import shorten

_COLUMNS = ("prompt", "reward_model")
_NOTES = ("data_source", "ability")


def read_parquet_problems(path: Path) -> ProblemFile:
    """Read a problem file.

    Args:
        path: A parquet file. The id of a row of verl's is `split-index` of its `extra_info`, or its place in the file.

    Raises:
        BehaviorError: If the file is missing or empty or has other columns, or a row is wrong; the message names file and row (from 0).
    """
    table = read_table(path, "a parquet or JSONL file of problems")
    published = find_layout(next(iter(table.slice(0, 1).to_pylist()), {}))
    if published is not None:
        rows = ((number, f"{path}: row {number}", row) for number, row in enumerate(table.to_pylist()))
        return read_problem_objects(rows, "row")
    lacking = [name for name in _COLUMNS if name not in table.column_names]
    if lacking:
        raise BehaviorError(
            f"{path}: got the columns {', '.join(table.column_names) or 'none'}, without {' and '.join(lacking)}; allowed: verl's columns prompt (a chat) "
            "and reward_model (with a ground_truth), those of a published set such as GSM8K or MMLU, or a JSONL file of problems",
            code="unknown_columns",
        )
    if not table.num_rows:
        raise BehaviorError(f"{path}: the file is empty; give one problem per row", code="empty_file")
    read: dict[str, Row] = {}
    places: dict[str, int] = {}
    for number, raw in enumerate(table.to_pylist()):
        row = _read_row(raw, number, f"{path}: row {number}")
        if row.id in read:
            raise BehaviorError(
                f"{path}: row {number}: id {row.id!r} was already used in row {places[row.id]}; split and index of extra_info must differ",
                code="duplicate_id",
            )
        read[row.id], places[row.id] = row, number
    return ProblemFile(tuple(read.values()))


def _read_row(row: Mapping[str, Any], number: int, where: str) -> Row:
    reward = row["reward_model"]
    if not isinstance(reward, Mapping) or reward.get("ground_truth") is None:
        raise RowError(f'{where}: reward_model: got {shorten(reward)}; allowed: an object such as {{"ground_truth": "72"}}')
    prompt = row["prompt"]
    if isinstance(prompt, list):  # a column of objects has a key for every key of any row
        prompt = [{k: v for k, v in turn.items() if v is not None} if isinstance(turn, Mapping) else turn for turn in prompt]
    notes = {name: row[name] for name in _NOTES if isinstance(row.get(name), str)}
    return Row(
        id=_id(row.get("extra_info"), number),
        prompt=read_prompt(prompt, where),
        answer=_answer(reward["ground_truth"], where),
        metadata=notes,
    )


def _id(extra_info: Any, number: int) -> str:
    if not isinstance(extra_info, Mapping) or extra_info.get("index") is None:
        return f"row-{number}"
    split = extra_info.get("split")
    return f"{split}-{extra_info['index']}" if split is not None else f"row-{extra_info['index']}"


def _answer(value: Any, where: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value) if value == int(value) else value)
    if not isinstance(value, str) or not value.strip():
        raise RowError(
            f"{where}: ground_truth: got {shorten(value)}; allowed: a text or a number; answers of another kind need a verifier of their own, so "
            "write the problems as JSONL"
        )
    return value
