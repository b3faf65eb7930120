"""The cache of the Hugging Face hub, as `load_dataset` leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def cache_of_hub(cache: Path, config: str, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the cached data set `acme/sums`.

    Args:
        cache: The folder of the cache.
        config: Name of its configuration.
        splits: The rows of each split; all have the same columns.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    folder = cache / "acme___sums" / config / "0.0.0" / "abc123"
    folder.mkdir(parents=True)
    for name, rows in splits.items():
        found = datasets.Dataset.from_list(list(rows))
        writer = ArrowWriter(path=str(folder / f"sums-{name}.arrow"), features=found.features)
        for row in found:
            writer.write(row)
        writer.finalize()
        writer.close()
    told = {
        name: {"name": name, "num_examples": len(rows), "num_bytes": 100, "dataset_name": "sums"} for name, rows in splits.items()
    }
    named = {"builder_name": "sums", "dataset_name": "sums", "config_name": config, "version": "0.0.0"}
    known = datasets.SplitDict.from_split_dict(told)
    datasets.DatasetInfo(features=found.features, splits=known, **named).write_to_directory(str(folder))
