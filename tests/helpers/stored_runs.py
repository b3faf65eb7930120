"""Files of runs, changed by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from posttrain.diagnose.storage.files import read_parquet, write_parquet


def rewrite_shard(path: Path, change: Callable[[dict[str, list[Any]]], Mapping[str, Sequence[Any]]]) -> None:
    """Write a shard again with other values in some columns, as its run would have written them.

    Args:
        path: The shard.
        change: Gets the columns and returns those that change.
    """
    shard = read_parquet(path)
    table = shard.table()
    for name, values in change(table.to_pydict()).items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    write_parquet(path, table, shard.record)
