"""Scored reference paths as parquet columns, and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from posttrain.diagnose.types import PathScore, Split

_FLOATS = pa.list_(pa.float32())
_INTS = pa.list_(pa.int32())
SCHEMA = pa.schema(
    [
        ("behavior", pa.string()),
        ("problem_id", pa.string()),
        ("split", pa.string()),
        ("reference_index", pa.int32()),
        ("token_ids", _INTS),
        ("token_texts", pa.list_(pa.string())),
        ("token_steps", _INTS),
        ("policy_logprobs", _FLOATS),
        ("ranks", _INTS),
        ("engine", pa.string()),
    ]
)


def to_arrow(paths: Sequence[PathScore]) -> pa.Table:
    """Return path scores as the columns of a shard, one row each."""
    rows = {
        "behavior": [p.behavior for p in paths],
        "problem_id": [p.problem_id for p in paths],
        "split": [p.split.value for p in paths],
        "reference_index": [p.reference_index for p in paths],
        "token_ids": [list(p.token_ids) for p in paths],
        "token_texts": [list(p.token_texts) for p in paths],
        "token_steps": [p.token_steps for p in paths],
        "policy_logprobs": [p.policy_logprobs for p in paths],
        "ranks": [p.ranks for p in paths],
        "engine": [p.engine for p in paths],
    }
    return pa.Table.from_pydict(rows, schema=SCHEMA)


def to_path_scores(table: pa.Table) -> Iterator[PathScore]:
    """Yield the rows of a shard as path scores."""
    for row in table.to_pylist():
        yield PathScore(
            behavior=row["behavior"],
            problem_id=row["problem_id"],
            split=Split(row["split"]),
            reference_index=row["reference_index"],
            token_ids=tuple(row["token_ids"]),
            token_texts=tuple(row["token_texts"]),
            token_steps=np.array(row["token_steps"], dtype=np.int32),
            policy_logprobs=np.array(row["policy_logprobs"], dtype=np.float32),
            ranks=np.array(row["ranks"], dtype=np.int32),
            engine=row["engine"],
        )
