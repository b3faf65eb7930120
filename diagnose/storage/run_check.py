"""Whether the files of a run are all there, whole, in their place and each only once; and setting aside what is not.

What must be there says `done/NAME.json`, the mark of a behavior that is measured to the end. A run of an earlier version has no such list
and no checksums: then the names of its shards and the numbers of its samples are checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import read_json
from posttrain.diagnose.storage.json_model import FileModel
from posttrain.diagnose.storage.rollout_table import GREEDY, SAMPLED, RolloutTable
from posttrain.diagnose.storage.run_directory import DECISION, KINDS, RunDirectory
from posttrain.diagnose.storage.shard_file import AGAIN, incomplete_rounds, part_of, read_shard, refuse_damage

ASIDE = "damaged"
"""Folder of a run for files that were found damaged."""
PLANS = "rounds"
"""Folder of the plans of rounds whose size depends on the samples before."""
JSON_KINDS = ("done", "validity", "probes", PLANS, DECISION)


Part = Annotated[str, Field(pattern=r"^[a-z]+/[^/]+$")]
"""`KIND/NAME`: the place of a file in its run, without its ending."""


class DoneRecord(FileModel):
    """What must be there of a behavior that is measured to the end."""

    shards: dict[Part, int] | None = None
    """Their numbers of rows; None where an earlier version listed none."""
    parts: list[Part] = Field(default_factory=list)
    """Validity checks and findings."""


def checked_table(directory: RunDirectory, behavior: str) -> RolloutTable:
    """Read the rollouts of a behavior that is measured to the end, and check that they are those that were sampled.

    Raises:
        RunError: The behavior is not measured to the end (`unfinished_run`), a file is missing (`missing_shard`, `missing_part`), damaged or in the wrong
            place (`damaged_shard`, `damaged_part`), nothing the run wrote (`unknown_shard`), or a sample is missing or doubled (`incomplete_samples`).
    """
    if not directory.is_done(behavior):
        raise RunError(
            f"run {directory.path}: {behavior} is not measured to the end; run the same `posttrain diagnose` again to resume it",
            code="unfinished_run",
        )
    listed = _listed(directory, behavior)
    wanted = listed.shards
    _check_list(directory, behavior, listed)
    table = directory.rollout_table(behavior)
    if wanted is not None:
        counts = zip(table.shards, np.diff(table.starts).tolist(), table.with_checksum, strict=True)
        others = [path for kind in KINDS[1:] for path in directory.shards(kind, behavior)]
        shards = [(path, read_shard(path, directory.identity)) for path in others]
        for path, num_rows, has_checksum in (*counts, *((path, one.num_rows, one.has_checksum) for path, one in shards)):
            if not has_checksum or num_rows != wanted[part_of(path)]:
                reason = f"{num_rows} rows, not {wanted[part_of(path)]}" if has_checksum else "it has lost its checksum"
                raise RunError(f"{path}: damaged ({reason}); {AGAIN}", code="damaged_shard")
    check_samples(directory.path, behavior, table)
    return table


def _listed(directory: RunDirectory, behavior: str) -> DoneRecord:
    content = directory.read_part("done", behavior)
    path = directory.part("done", behavior)
    with refuse_damage(path):
        listed = DoneRecord.model_validate(content, strict=True)
    if listed.shards is None and any(read_shard(shard).has_checksum for shard in directory.shards("rollouts", behavior)):
        raise RunError(f"{path}: damaged (it has lost its list of files); {AGAIN}", code="damaged_part")
    return listed


def _check_list(directory: RunDirectory, behavior: str, listed: DoneRecord) -> None:
    """Compare the files of a behavior with the list of those that there must be."""
    found = {part_of(path): path for kind in KINDS for path in directory.shards(kind, behavior)}
    if (wanted := listed.shards) is None:  # written by an earlier version
        names = [path.stem for path in directory.shards("rollouts", behavior)]
        for decoding in (GREEDY, SAMPLED):
            if holes := incomplete_rounds(names, decoding):
                raise RunError(
                    f"run {directory.path}: a shard of {behavior}, {decoding} round {holes[0]}, is missing; {AGAIN}",
                    code="missing_shard",
                )
        return
    if missing := sorted(set(wanted) - set(found)):
        raise RunError(f"run {directory.path}: {missing[0]}.parquet is missing; {AGAIN}", code="missing_shard")
    if lacking := _missing_parts(directory, listed):
        raise RunError(f"run {directory.path}: {lacking[0]}.json is missing; {AGAIN}", code="missing_part")
    if unknown := sorted(set(found) - set(wanted)):
        raise RunError(
            f"{found[unknown[0]]}: is none of the files that the run wrote; remove it, or {AGAIN}", code="unknown_shard"
        )


def _missing_parts(directory: RunDirectory, listed: DoneRecord) -> list[str]:
    return [part for part in listed.parts if not directory.part(*part.split("/", 1)).exists()]


def check_samples(path: Path, behavior: str, table: RolloutTable) -> None:
    """Refuse rollouts of which a problem has one twice, or not all from 0 on.

    Args:
        path: The run, for the message.
        behavior: Its name, for the message.
        table: All of its rollouts.

    Raises:
        RunError: Code `incomplete_samples`.
    """
    series = table.problem.astype(np.int64) * 2 + table.greedy  # samples of one problem and decoding
    order = np.lexsort((table.sample_index, series))
    sorted_series, index = series[order], table.sample_index[order]
    wrong = np.flatnonzero(index != np.arange(len(index)) - np.searchsorted(sorted_series, sorted_series))
    if len(wrong):
        row = int(order[wrong[0]])
        decoding, problem = GREEDY if table.greedy[row] else SAMPLED, table.problem_ids[table.problem[row]]
        raise RunError(
            f"run {path}: {behavior} has {decoding} sample {table.sample_index[row]} of {problem} twice, or not the ones before it; {AGAIN}",
            code="incomplete_samples",
        )


def check_folder(path: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Check the files of a finished run; a folder without samples, or one that is no run, has none.

    Args:
        path: The folder.
        settings: Those of its diagnosis.json, where that is read already.

    Raises:
        RunError: As for `checked_table`; or diagnosis.json is of another run (`other_run`).
    """
    directory = RunDirectory(path)
    if not directory.run_json.exists() or not directory.diagnosis_json.exists():
        return
    record = directory.read_json()
    decided = read_json(directory.diagnosis_json).get("settings") if settings is None else settings
    if decided != record["settings"]:
        raise RunError(
            f"{directory.diagnosis_json}: has other settings than the run.json beside it; run `posttrain report {path}` again",
            code="other_run",
        )
    for behavior in record["settings"].get("behaviors", {}):
        checked_table(directory, behavior)
        directory.read_part("validity", behavior)
        for path in directory.json_parts("probes", behavior):
            directory.read_part("probes", path.stem)


def set_aside(directory: RunDirectory, behavior: str) -> list[str]:
    """Move what is damaged, or in the wrong place, of one behavior into the folder `damaged`; what is then missing is made again.

    Returns:
        The parts that are missing now, or were not expected.
    """
    found: list[str] = []
    done = DoneRecord()
    with suppress(RunError):
        done = _listed(directory, behavior)
    for kind in (*KINDS, *JSON_KINDS):
        paths = directory.shards(kind, behavior) if kind in KINDS else []
        for path in [*paths, *directory.json_parts(kind, behavior)]:
            if not _is_whole(directory, path, done.shards):
                found.append(part_of(path))
                move_aside(directory, path)
    missing = [part for part in done.shards or {} if not directory.shard(*part.split("/", 1)).exists()]
    missing += _missing_parts(directory, done)
    found += [part for part in missing if part not in found]
    if found:
        directory.part("done", behavior).unlink(missing_ok=True)
    for part in found:
        if of_probe := re.fullmatch(r"probes/.+-(\w+)\.\d+", part):  # the finding rests on it
            directory.part("probes", f"{behavior}.{of_probe[1]}").unlink(missing_ok=True)
    return found


def _is_whole(directory: RunDirectory, path: Path, done: dict[str, int] | None) -> bool:
    try:
        if path.suffix == ".json":
            _listed(directory, path.stem) if path.parent.name == "done" else directory.read_part(path.parent.name, path.stem)
            return True
        shard = read_shard(path, directory.identity)
        return done is None or (shard.has_checksum and done.get(part_of(path)) == shard.num_rows)
    except RunError:
        return False


def move_aside(directory: RunDirectory, path: Path) -> None:
    """Move a file aside, under a name that says where it was."""
    aside, number = directory.path / ASIDE, 0
    aside.mkdir(exist_ok=True)
    while (target := aside / f"{number}-{path.parent.name}-{path.name}").exists():
        number += 1
    path.rename(target)
