"""Files of runs, changed by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from posttrain.diagnose.storage.files import read_json, read_parquet, write_json, write_parquet
from posttrain.diagnose.storage.run_directory import RunDirectory


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


def copy_run(source: Path, target: Path, **settings: Any) -> None:
    """Copy a run as one that was made with other settings."""
    shutil.copytree(source, target)
    record = read_json(target / "run.json")
    write_json(target / "run.json", {**record, "settings": {**record["settings"], **settings}})
    identity = RunDirectory(target).identity
    for path in target.glob("*/*.parquet"):
        shard = read_parquet(path)
        write_parquet(path, shard.table(), {**shard.record, "run": identity})
    for path in (path for kind in ("done", "validity", "probes", "rounds") for path in (target / kind).glob("*.json")):
        write_json(path, {**read_json(path), "run": identity})
