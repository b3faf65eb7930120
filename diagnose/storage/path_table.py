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
    return pa.Table.from_pydict({name: [getattr(path, name) for path in paths] for name in SCHEMA.names}, schema=SCHEMA)


def to_path_scores(table: pa.Table) -> Iterator[PathScore]:
    """Yield the rows of a shard as path scores."""
    for row in table.to_pylist():
        values = {
            "split": Split(row["split"]),
            "token_ids": tuple(row["token_ids"]),
            "token_texts": tuple(row["token_texts"]),
            "token_steps": np.array(row["token_steps"], dtype=np.int32),
            "policy_logprobs": np.array(row["policy_logprobs"], dtype=np.float32),
            "ranks": np.array(row["ranks"], dtype=np.int32),
        }
        yield PathScore(**{**row, **values})
