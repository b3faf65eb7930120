"""Problems of a data set on the Hugging Face hub, in its local cache, or in a folder: `hf:NAME[:CONFIG][:SPLIT]`.

NAME is an id such as `openai/gsm8k`, a folder of data files, or one that `save_to_disk` wrote. What is in the cache needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.diagnose.behaviors.row_files import without_nulls
from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import closest

PREFIX = "hf:"
FORM = "hf:NAME[:CONFIG][:SPLIT]"
_MEASURED = ("test", "validation", "valid", "val", "dev", "eval")
"""Splits to be measured where none is named, the first that there is."""


class HubData(NamedTuple):
    """Which data set, as a user names it."""

    name: str
    """An id, or the path of a folder."""
    parts: tuple[str, ...]
    """Configuration and split, or one of the two."""

    @property
    def source(self) -> str:
        """Return what names it again, from any working directory."""
        return PREFIX + ":".join((self.name, *self.parts))

    @property
    def behavior_name(self) -> str:
        """Return a name for the behavior."""
        words = "-".join((Path(self.name).name, *self.parts))
        return re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-._") or "data"


def is_hub_data(source: str | Path) -> bool:
    """Return whether a source of problems names a data set."""
    return str(source).startswith(PREFIX)


def parse_hub_data(source: str, beside: Path) -> HubData:
    """Read the name of a data set.

    Args:
        source: `hf:NAME`, with a configuration or a split or both behind it.
        beside: Where a relative folder is looked for, after the working directory.

    Raises:
        BehaviorError: It has another form (`hub_data_form`).
    """
    name, *parts = re.split(r":(?![^\[]*\])", source.removeprefix(PREFIX))
    if not name or len(parts) > 2 or not all(parts):
        raise BehaviorError(
            f"got {source!r}; allowed: {FORM}, such as hf:openai/gsm8k:main:test, or a folder, such as hf:data/saved:test",
            code="hub_data_form",
        )
    folder = next((path for path in (Path(name).expanduser(), beside / name) if path.is_dir()), None)
    return HubData(name if folder is None else str(folder.resolve()), tuple(parts))


class HubRows(NamedTuple):
    """The rows of a data set."""

    rows: Iterator[tuple[int, str, Mapping[str, Any]]]
    """The number of each, from 0, where it stands, and its content."""
    note: str
    """Which part was read, where the user did not say it all."""


def read_hub_rows(data: HubData, *, default_split: str | None = None) -> HubRows:
    """Read a data set. Class labels are written as their names; images and sounds are left out.

    Args:
        data: Which one.
        default_split: Read where it names no split; by default the first of test, validation, ... that there is, else the first.

    Raises:
        BehaviorError: `datasets` is not installed (`no_datasets`), or there is no such data set or configuration (`no_hub_data`), or no such split
            (`no_hub_split`).
    """
    found, split = open_hub_data(data, default_split=default_split)
    kinds = {name: type(feature).__name__ for name, feature in found.features.items()}
    found = found.remove_columns([name for name, kind in kinds.items() if kind in ("Image", "Audio", "Video", "Pdf", "Nifti")])
    labels = {name: found.features[name] for name, kind in kinds.items() if kind == "ClassLabel"}

    def rows() -> Iterator[tuple[int, str, Mapping[str, Any]]]:
        for number, row in enumerate(found):
            named = {name: label.int2str(row[name]) for name, label in labels.items() if row[name] is not None and row[name] >= 0}
            yield number, f"{PREFIX}{data.name} {split} row {number}", without_nulls({**row, **named})

    return HubRows(rows(), "" if split in data.parts else f"the split {split} of {Path(data.name).name} was read")


def open_hub_data(data: HubData, *, default_split: str | None = None) -> tuple[Any, str]:
    """Return a data set of one split, as the package datasets has it, and the split's name; see `read_hub_rows`."""
    try:
        import datasets
    except ImportError:
        raise BehaviorError(
            f'{data.source}: reading it needs the package datasets; install it with `pip install "posttrain[datasets]"`, or give a .parquet or .jsonl file',
            code="no_datasets",
        ) from None
    folder = Path(data.name)
    if any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        return _saved(data, _ask(data, datasets.load_from_disk, str(folder)), default_split)
    config, split = data.parts if len(data.parts) == 2 else (None, None)
    if len(data.parts) == 1:  # a split where there is one of that name, else a configuration
        try:
            splits = _splits(data, None)
        except BehaviorError:
            splits = []
        config, split = (None, data.parts[0]) if data.parts[0].partition("[")[0] in splits else (data.parts[0], None)
        if config and splits and not _has(data, config):
            config, split = None, config  # to say which splits there are
    split = _split(data, split or default_split, _splits(data, config))
    return _ask(data, datasets.load_dataset, data.name, config, split=split), split


def _splits(data: HubData, config: str | None) -> list[str]:
    import datasets

    known = _ask(data, datasets.load_dataset_builder, data.name, config).info.splits
    return list(known) if known else list(_ask(data, datasets.get_dataset_split_names, data.name, config))


def _has(data: HubData, config: str) -> bool:
    try:
        return bool(_splits(data, config))
    except BehaviorError:
        return False


def _ask(data: HubData, function: Callable[..., Any], *given: Any, **more: Any) -> Any:
    """Call a function of `datasets`, whose errors are of many kinds and of several packages."""
    try:
        return function(*given, **more)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BehaviorError(
            f"{data.source}: cannot be read ({reason}); give {FORM} of a data set on the hub or in its cache, or the folder of one",
            code="no_hub_data",
        ) from error


def _saved(data: HubData, found: Any, default_split: str | None) -> tuple[Any, str]:
    """Return what `save_to_disk` wrote: a data set, or one of several splits."""
    if not isinstance(found, dict):
        name = str(found.split or "data")
        if data.parts not in ((), (name,)):
            raise BehaviorError(
                f"{data.source}: the folder holds one data set without splits; give hf:{data.name}", code="no_hub_split"
            )
        return found, name
    if len(data.parts) > 1:
        raise BehaviorError(
            f"{data.source}: a saved folder has splits and no configurations; give one of {', '.join(f'hf:{data.name}:{name}' for name in found)}",
            code="no_hub_data",
        )
    split = _split(data, data.parts[0] if data.parts else default_split, list(found))
    return found[split], split


def _split(data: HubData, split: str | None, splits: list[str]) -> str:
    """Return the split that is named, or else the one to measure."""
    if split is None:
        return next((name for name in _MEASURED if name in splits), splits[0])
    if split.partition("[")[0] not in splits:
        raise BehaviorError(
            f"{data.source}: there is no split {split!r}{closest(split, splits)}; there are {_listed(splits)}",
            code="no_hub_split",
        )
    return split


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
