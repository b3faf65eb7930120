"""A run directory: settings, rollouts, path scores and results on disk, so that a stopped run can be resumed.

Rows are parquet, one file per shard. A file is written under a temporary name, synced and renamed, so that it exists whole or not at all.
What people read is JSON. `run.json` holds the resolved settings; a directory made with other settings is refused with the difference.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage import path_table
from posttrain.diagnose.storage.rollout_table import METADATA_KEY, RolloutTable, to_arrow
from posttrain.diagnose.types import Cost, Finding, PathScore, Rollout

_COSTS = ("seconds", "generated_tokens", "scored_tokens", "samples")
"""What a shard records of its cost."""


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with work.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    work.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` does. NaN becomes null: JSON knows no NaN."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def say_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return which of our settings a stored run has otherwise, as `key: there A, here B`; empty where none."""
    new = json.loads(json.dumps(_finite(here)))
    differing = sorted(key for key in new if there.get(key) != new.get(key))
    return "; ".join(f"{key}: there {_short(there.get(key))}, here {_short(new.get(key))}" for key in differing)


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: Path):
        """Take a path; nothing is touched yet."""
        self.path = path

    @property
    def run_json(self) -> Path:
        """Resolved settings and state."""
        return self.path / "run.json"

    @property
    def diagnosis_json(self) -> Path:
        """The result."""
        return self.path / "diagnosis.json"

    def check(self, kind: str, settings: Mapping[str, Any]) -> None:
        """Refuse a folder that holds something else, or a run that differs in one of these settings; nothing is written.

        Raises:
            RunError: as for `open`.
        """
        if self.run_json.exists():
            self._check_same(kind, settings)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(
                f"--out {self.path}: got a path that holds other files and no run.json; give a new or an empty folder",
                code="other_files",
            )

    def open(self, kind: str, settings: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        """Start the run, or resume it.

        Args:
            kind: `diagnose`, `train` or `loop`.
            settings: What a resumed run must share, key by key.
            details: What is worth recording and may differ (versions, the command).

        Raises:
            RunError: the folder holds something else, or a run with other settings.
        """
        self.check(kind, settings)
        if self.run_json.exists():
            details = {**details, **{key: value for key, value in self.read_json().items() if key == "created"}}
        try:
            write_json(self.run_json, {"schema": 1, "kind": kind, "settings": settings, **details, "state": "running"})
        except OSError as error:
            raise RunError(
                f"--out {self.path}: cannot be written ({error.strerror}); give a folder that you may write to",
                code="not_writable",
            ) from error

    def discard_if_empty(self) -> None:
        """Remove what `open` wrote, where nothing was added since."""
        if [entry.name for entry in self.path.iterdir()] == [self.run_json.name]:
            self.run_json.unlink()
            self.path.rmdir()

    def _check_same(self, kind: str, settings: Mapping[str, Any]) -> None:
        old = self.read_json()
        if old["kind"] != kind:
            raise RunError(
                f"--out {self.path}: holds a {old['kind']} run, this is a {kind} run; give a new folder", code="other_kind"
            )
        said = say_differences(old["settings"], settings)
        if said:
            raise RunError(
                f"--out {self.path}: holds another run ({said}); give a new folder, or the same settings to resume",
                code="other_settings",
            )

    def finish(self, **results: Any) -> None:
        """Mark the run as done."""
        old = json.loads(self.run_json.read_text())
        write_json(self.run_json, {**old, **results, "state": "done"})

    def read_json(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            RunError: there is no run here.
        """
        if not self.run_json.exists():
            raise RunError(
                f"run {self.path}: no run.json there; give the --out folder of an earlier `posttrain diagnose` or `posttrain loop`",
                code="no_run",
            )
        try:
            data: dict[str, Any] = json.loads(self.run_json.read_text())
            if not isinstance(data, dict) or not {"kind", "settings"} <= set(data):
                raise ValueError("it lacks kind or settings")
        except ValueError as error:
            raise RunError(
                f"run {self.path}: its run.json cannot be read ({error}); measure again into a new folder", code="unreadable_run"
            ) from error
        return data

    def shard(self, kind: str, name: str) -> Path:
        """Return the path of a shard of `rollouts`, `paths`, `agreement` or `probes`."""
        return self.path / kind / f"{name}.parquet"

    def validity(self, behavior: str) -> Path:
        """Return the file with the validity checks of a behavior."""
        return self.path / "validity" / f"{behavior}.json"

    def is_done(self, behavior: str) -> bool:
        """Say whether a behavior is measured to the end."""
        return self.done(behavior).exists()

    def done(self, behavior: str) -> Path:
        """Return the file that marks a behavior as measured to the end, and says how it was sampled; it is written last."""
        return self.path / "done" / f"{behavior}.json"

    def write_rollouts(self, name: str, rollouts: Sequence[Rollout], cost: Cost, *, kind: str = "rollouts") -> None:
        """Write a shard of rollouts; of another kind, rollouts that are not counted as samples of the behavior."""
        self.write_shard(kind, name, to_arrow(rollouts), cost)

    def write_paths(self, name: str, paths: Sequence[PathScore], cost: Cost, *, kind: str = "paths") -> None:
        """Write a shard of path scores: `paths` of references, `agreement` of our own samples scored again."""
        self.write_shard(kind, name, path_table.to_arrow(paths), cost)

    def write_shard(self, kind: str, name: str, table: pa.Table, cost: Cost) -> None:
        """Write rows that are columns already (those of `rollout_table.SCHEMA`, for rollouts)."""
        target = self.shard(kind, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        record = {name: getattr(cost, name) for name in _COSTS}
        # Dictionaries save space for names that repeat, not for log-probabilities; nothing searches rows by their statistics.
        names = [field.name for field in table.schema if pa.types.is_string(field.type)]
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(record).encode()})
        pq.write_table(table, work, compression="zstd", use_dictionary=names, write_statistics=False)
        with work.open("rb") as file:
            os.fsync(file.fileno())
        work.replace(target)

    def rollout_table(self, behavior: str) -> RolloutTable:
        """Read the rollouts of one behavior, in the order of shard names."""
        return RolloutTable.read(self.shards("rollouts", behavior))

    def read_paths(self, behavior: str, kind: str = "paths") -> Iterator[PathScore]:
        """Read the path scores of one behavior, in the order of shard names."""
        for path in self.shards(kind, behavior):
            yield from path_table.to_path_scores(pq.read_table(path))

    def shards(self, kind: str, behavior: str) -> list[Path]:
        """Return the shards of a behavior. They are named behavior.split-decoding.number, and a behavior's name may hold dots."""
        return [path for path in sorted((self.path / kind).glob("*.parquet")) if path.name.rsplit(".", 3)[0] == behavior]

    def cost(self, behavior: str, rollouts: RolloutTable, findings: Sequence[Finding] = ()) -> Cost:
        """Add up what one behavior took: its shards (`rollouts` are its own) and its further probes."""
        paths = [path for kind in ("paths", "agreement") for path in self.shards(kind, behavior)]
        costs = [*rollouts.costs, *(json.loads(pq.read_schema(path).metadata[METADATA_KEY]) for path in paths)]
        total = {name: sum(cost[name] for cost in costs) + sum(getattr(f, name) for f in findings) for name in _COSTS}
        return Cost(
            **{**total, "seconds": round(total["seconds"], 2)}, teacher_tokens=sum(finding.teacher_tokens for finding in findings)
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
