"""A run directory: settings, rollouts, path scores and results on disk, so that a stopped run can be resumed.

Rows are parquet, one file per shard. A file is written under a temporary name, synced and renamed, so that it exists whole or not at all;
it carries a checksum, and says which part of which run it is. What people read is JSON. `run.json` holds the resolved settings; a directory
made with other settings is refused with the difference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage import path_table
from posttrain.diagnose.storage.files import finite, read_json, write_json, write_parquet
from posttrain.diagnose.storage.output_folder import content_of
from posttrain.diagnose.storage.rollout_table import RolloutTable, to_arrow
from posttrain.diagnose.storage.run_record import RunRecord
from posttrain.diagnose.storage.shard_file import AGAIN, COSTS, part_of, read_shard, rows_of
from posttrain.diagnose.types import Cost, Finding, PathScore, Rollout

KINDS = ("rollouts", "paths", "agreement", "formats", "probes")
"""Folders of shards: samples, references scored, samples scored again, and what probes sampled."""
BEHAVIORS = "behaviors"
"""Folder of the behavior files that an imported run holds itself."""
DECISION = "decision"
"""Folder of what was found when a run was decided again, which replaces findings of the same probes."""

_MOST_DIFFERENCES = 5
"""Named in one message."""
_LONGEST_VALUE = 60
"""Characters of a value in a message."""
_ABSENT = object()
"""Stands for a setting that is not there."""


def say_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return which of our settings a stored run has otherwise, as `name: there A, here B`; empty where none.

    Of settings within settings those that differ are named alone, as `thresholds.max_missing`.
    """
    new = json.loads(json.dumps(finite(here)))
    differing = [one for key in sorted(new) for one in _differences(key, there.get(key), new[key])]
    further = f"; and {len(differing) - _MOST_DIFFERENCES} more" if len(differing) > _MOST_DIFFERENCES else ""
    return "; ".join(differing[:_MOST_DIFFERENCES]) + further


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: Path, *, sources: Collection[Path] = ()):
        """Take a path; nothing is touched yet.

        Args:
            path: The folder.
            sources: What the run is made of: it may lie in the folder before there is a run.
        """
        self.path, self._sources = path, frozenset(source.resolve() for source in sources)

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
        elif self.path.exists() and (not self.path.is_dir() or {one.resolve() for one in content_of(self.path)} - self._sources):
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
            old = self.read_json()
            details = {**details, **{key: old[key] for key in ("created", "token_limits") if key in old}}
        self.__dict__.pop("identity", None)
        try:
            write_json(self.run_json, {"kind": kind, "settings": settings, **details, "state": "running"})
        except OSError as error:
            raise RunError(
                f"--out {self.path}: cannot be written ({error.strerror}); give a folder that you may write to",
                code="not_writable",
            ) from error

    def behavior_source(self, record: Mapping[str, Any], name: str) -> str:
        """Return where a behavior of the run was found: what run.json says, or a file of the run itself, wherever the folder lies now."""
        source = str(record["sources"][name])
        own = self.path / source
        return str(own) if source.startswith(f"{BEHAVIORS}/") and own.is_file() else source

    def record_limits(self, limits: Mapping[str, Mapping[str, Any]]) -> None:
        """Add limits of `max_tokens` that were found, by the names of their behaviors, before a sample is stored that has them."""
        record = self.read_json()
        known = record.get("token_limits", {})
        if limits and {**known, **limits} != known:
            write_json(self.run_json, {**record, "token_limits": {**known, **limits}})

    def discard_if_empty(self) -> None:
        """Remove what `open` wrote, where nothing was added since."""
        if [entry.name for entry in content_of(self.path)] == [self.run_json.name]:
            self.run_json.unlink()

    def _check_same(self, kind: str, settings: Mapping[str, Any]) -> None:
        old = self.read_json(named=f"--out {self.path}", remedy="give a new folder")
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
        write_json(self.run_json, {**self.read_json(), **results, "state": "done"})

    def read_json(self, *, named: str = "", remedy: str = "measure again into a new folder") -> dict[str, Any]:
        """Read run.json.

        Args:
            named: What messages call the run; `run FOLDER` where empty.
            remedy: What messages say to do.

        Raises:
            RunError: There is no run here (`no_run`), or its run.json cannot be read (`unreadable_run`), has changed since it was written
                (`damaged_file`) or is of another version (`unknown_version`).
        """
        named = named or f"run {self.path}"
        if not self.run_json.exists():
            what = "no run.json there" if self.path.exists() else "no such file or folder"
            raise RunError(
                f"{named}: {what}; give the --out folder of an earlier `posttrain diagnose`, `import` or `loop`; samples that another tool stored "
                "become a run with `posttrain import auto PATH`",
                code="no_run",
            )
        try:
            data = read_json(self.run_json, remedy=remedy)
            RunRecord.model_validate(data)
        except RunError as error:
            raise RunError(str(error), code=error.code.replace("unreadable_file", "unreadable_run")) from error
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunError(
                f"{named}: its run.json cannot be read ({place}: {error.errors()[0]['msg']}); {remedy}", code="unreadable_run"
            ) from error
        return data

    @cached_property
    def identity(self) -> str:
        """What tells the files of this run from those of others: a digest of its settings; empty where there is no run.json."""
        if not self.run_json.exists():
            return ""
        given = {key: value for key, value in self.read_json()["settings"].items() if value is not None}
        return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]

    def shard(self, kind: str, name: str) -> Path:
        """Return the path of a shard of `rollouts`, `paths`, `agreement`, `formats` or `probes`."""
        return self.path / kind / f"{name}.parquet"

    def part(self, kind: str, name: str) -> Path:
        """Return the path of a part that is JSON: of `validity`, `done`, `probes`, `rounds` or `decision`."""
        return self.path / kind / f"{name}.json"

    def write_part(self, kind: str, name: str, content: Mapping[str, Any]) -> None:
        """Write a part that is JSON."""
        write_json(self.part(kind, name), {"part": f"{kind}/{name}", "run": self.identity, **content})

    def read_part(self, kind: str, name: str) -> dict[str, Any]:
        """Read a part that is JSON.

        Raises:
            RunError: It is missing or damaged, or is another part or belongs to another run than its place says (`damaged_part`).
        """
        path, remedy = self.part(kind, name), AGAIN.replace("samples again", "writes again")
        try:
            content = read_json(path, remedy=remedy, versioned=False)
        except RunError as error:
            if error.code == "unknown_version":
                raise
            raise RunError(str(error), code="damaged_part") from error
        part, run = content.pop("part", part_of(path)), content.pop("run", self.identity)
        if part != part_of(path) or run != self.identity:
            reason = "it belongs to another run" if part == part_of(path) else f"it is a copy of {part}"
            raise RunError(f"{path}: damaged ({reason}); {remedy}", code="damaged_part")
        content.pop("schema", None)
        return content

    def json_parts(self, kind: str, behavior: str) -> list[Path]:
        """Return the parts of one kind that are JSON: `NAME.PROBE.json` of probes and of a decision, `NAME.SPLIT.NUMBER.json` of rounds, else `NAME.json`."""
        dots = {"probes": 1, DECISION: 1, "rounds": 2}.get(kind, 0)
        paths = sorted((self.path / kind).glob("*.json"))
        return [path for path in paths if (path.stem.rsplit(".", dots)[0] if dots else path.stem) == behavior]

    def is_done(self, behavior: str) -> bool:
        """Say whether a behavior is measured to the end."""
        return self.part("done", behavior).exists()

    def write_done(self, behavior: str, plan: Mapping[str, Any]) -> None:
        """Mark a behavior as measured to the end; written last.

        Args:
            behavior: Its name.
            plan: How it was sampled.
        """
        rows = {part_of(path): pq.read_metadata(path).num_rows for kind in KINDS for path in self.shards(kind, behavior)}
        parts = [part_of(path) for kind in ("validity", "probes") for path in self.json_parts(kind, behavior)]
        self.write_part("done", behavior, {**plan, "shards": rows, "parts": parts})

    def write_rollouts(self, name: str, rollouts: Sequence[Rollout], cost: Cost, *, kind: str = "rollouts") -> None:
        """Write a shard of rollouts; of another kind, rollouts that are not counted as samples of the behavior."""
        self.write_shard(kind, name, to_arrow(rollouts), cost)

    def write_paths(self, name: str, paths: Sequence[PathScore], cost: Cost, *, kind: str = "paths") -> None:
        """Write a shard of path scores: `paths` of references, `formats` of them after other prompts, `agreement` of our samples."""
        self.write_shard(kind, name, path_table.to_arrow(paths), cost)

    def write_shard(self, kind: str, name: str, table: pa.Table, cost: Cost) -> None:
        """Write rows that are columns already (those of `rollout_table.SCHEMA`, for rollouts)."""
        record = {"part": f"{kind}/{name}", "run": self.identity, **{one: getattr(cost, one) for one in COSTS}}
        write_parquet(self.shard(kind, name), table, record)

    def rollout_table(self, behavior: str) -> RolloutTable:
        """Read the rollouts of one behavior, in the order of shard names.

        Raises:
            RunError: A file is damaged, or stands in the wrong place.
        """
        return RolloutTable.read(self.shards("rollouts", behavior), self.identity)

    def read_paths(self, behavior: str, kind: str = "paths") -> Iterator[PathScore]:
        """Read the path scores of one behavior, in the order of shard names.

        Raises:
            RunError: A file is damaged, or stands in the wrong place.
        """
        for path in self.shards(kind, behavior):
            yield from rows_of(path, read_shard(path, self.identity).table(), path_table.to_path_scores)

    def shards(self, kind: str, behavior: str) -> list[Path]:
        """Return the shards of a behavior. They are named behavior.split-decoding.number, and a behavior's name may hold dots."""
        return [path for path in sorted((self.path / kind).glob("*.parquet")) if path.name.rsplit(".", 3)[0] == behavior]

    def cost(self, behavior: str, rollouts: RolloutTable, findings: Sequence[Finding] = ()) -> Cost:
        """Add up what one behavior took: its shards (`rollouts` are its own) and its further probes."""
        paths = [path for kind in ("paths", "agreement", "formats") for path in self.shards(kind, behavior)]
        costs = [*rollouts.costs, *(read_shard(path, self.identity).record for path in paths)]
        total = {name: sum(cost[name] for cost in costs) + sum(getattr(f, name) for f in findings) for name in COSTS}
        return Cost(
            **{**total, "seconds": round(total["seconds"], 2)}, teacher_tokens=sum(finding.teacher_tokens for finding in findings)
        )


def _differences(name: str, there: Any, here: Any) -> Iterator[str]:
    """Yield what differs between two values of a setting, each with its name."""
    if there and here and isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(f"{name}.{key}", there.get(key, _ABSENT), here.get(key, _ABSENT))
    elif there != here:
        yield f"{name}: there {_short(there)}, here {_short(here)}"


def _short(value: Any) -> str:
    text = "none" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
