"""What a stopped run is resumed from: safetensors for what the optimizer changes, JSON for the rest, both with checksums.

Samples are named by seed and step, so the position in the data and every generator follow from the number of the next step; what is left
is written here. A state is a folder `training_state-STEP` that appears whole or not at all; the newest one counts. Each process writes its
rows of every tensor in a file of its own, and reads the rows that it needs from whichever files hold them: another number of processes may
resume the run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from posttrain.analysis.stored_json import with_checksum
from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.files import checksum_of_file, read_json
from posttrain.diagnose.storage.run_directory import say_differences
from posttrain.trainers.distributed.processes import ProcessGroup, local_tensor
from posttrain.trainers.models.ema import EmaWeights
from posttrain.trainers.row_json import row_to_json
from posttrain.trainers.training_types import TrainingRow

SCHEMA = 5
_NAME = re.compile(r"training_state-(\d+)(?:\.(\d+))?")
_HIDDEN = ".training_state-"
"""How the names of states begin that are not whole yet, or no longer."""

WriteFile = Callable[[Path, "str | dict[str, Tensor]"], None]
"""Writes text, or tensors by name."""


def find_state(folder: Path) -> Path | None:
    """Return the newest state in the work folder of a run."""
    found = [
        (int(match[1]), int(match[2] or 0), path)
        for path in folder.glob("training_state-*")
        if (match := _NAME.fullmatch(path.name))
    ]
    return max(found)[2] if found else None


def write_synced(file: Path, content: str | dict[str, Tensor]) -> None:
    """Write a file and wait until it is on the disk."""
    if isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    else:
        save_file(content, file)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredState:
    """A state that was read."""

    record: Mapping[str, Any]
    tensors: StoredTensors


class ResumeStore:
    """The states of one run, in its work folder; all processes must ask for everything.

    Args:
        folder: That of rank 0 counts.
        identity: Settings and fingerprints that a resumed run must share.
        processes: That train together.
        write_file: How files are written.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], processes: ProcessGroup, *, write_file: WriteFile = write_synced
    ) -> None:
        self.folder, self.identity, self._processes, self._write_file = folder, identity, processes, write_file
        self.is_shared = self._all_see_it()
        """Whether all processes see the folder, so that each can leave its tensors there."""

    def _all_see_it(self) -> bool:
        if self._processes.size == 1:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        return all(self._processes.all_gather(self._processes.broadcast(self.folder.resolve()).is_dir()))

    def require_shared(self) -> None:
        """Refuse a folder in which no state could be left.

        Raises:
            RunError: Not all processes see it.
        """
        if not self.is_shared:
            processes = self._processes
            raise RunError(
                f"save_every: not all of {processes.size} processes see {processes.broadcast(self.folder.resolve())}, where each leaves its "
                "part of a state; give an --out on a disk that all machines share, or leave save_every out",
                code="folder_not_shared",
            )

    def read(self) -> StoredState | None:
        """Return the newest state, where there is one.

        Raises:
            RunError: It belongs to other settings, or cannot be read.
        """
        found = self._processes.broadcast(find_state(self.folder.resolve()))
        if found is None:
            return None
        return StoredState(record=self._read_record(found), tensors=StoredTensors(found, self._processes))

    def _read_record(self, path: Path) -> dict[str, Any]:
        try:
            record = read_json(path / "state.json", remedy=f"delete {path.parent} to begin anew", version=SCHEMA, sealed=True)
            theirs = record["identity"]
            reason = self._damage(path, record["files"])
        except RunError as error:
            raise RunError(str(error), code="unreadable_state") from error
        except (OSError, KeyError, AttributeError) as error:
            reason = str(error)
        if reason := next(filter(None, self._processes.all_gather(reason)), ""):
            raise RunError(f"{path} cannot be read ({reason}); delete {path.parent} to begin anew", code="unreadable_state")
        differences = say_differences(theirs, self.identity)
        if differences:
            raise RunError(
                f"{path.parent} holds an unfinished run with other settings ({differences}); give the same settings to resume it, or delete "
                "it to begin anew",
                code="other_settings",
            )
        return record

    def _damage(self, path: Path, checksums: Mapping[str, str]) -> str:
        """Return what is wrong with the files of tensors, each checked by one process; empty where nothing is."""
        found = {file.name for file in _tensor_files(path)}
        if found != set(checksums):
            return f"{len(found & set(checksums))} of {len(checksums)} files of tensors"
        mine = sorted(checksums)[self._processes.rank :: self._processes.size]
        changed = [name for name in mine if checksum_of_file(path / name) != checksums[name]]
        return f"{changed[0]} has changed since it was written" if changed else ""

    def write(self, number: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a state, then remove older ones.

        Args:
            number: Of the next step.
            record: JSON values, and training rows; those of rank 0 count.
            tensors: By name; shards, and on rank 0 what every process has in full.
        """
        processes = self._processes
        work = Path(processes.broadcast(self._make_work_folder() if processes.is_rank_zero else ""))
        try:
            mine = {name: local_tensor(value).contiguous() for name, value in tensors.items()}
            file = work / f"tensors-{processes.rank + 1:05}-of-{processes.size:05}.safetensors"
            self._write_file(file, mine)
            checksums = dict(processes.all_gather((file.name, checksum_of_file(file))))  # now all of them are written
            if processes.is_rank_zero:
                content = {"schema": SCHEMA, "files": checksums, "identity": self.identity, **record}
                plain = json.loads(json.dumps(content, default=_row_or_refuse))
                self._write_file(work / "state.json", with_checksum(json.dumps(plain).encode()).decode())
                self._publish(work, number)
        except BaseException:
            if processes.is_rank_zero:
                shutil.rmtree(work, ignore_errors=True)
            raise

    def _make_work_folder(self) -> str:
        for path in self.folder.glob(f"{_HIDDEN}*"):  # of a run that was killed while it wrote
            shutil.rmtree(path, ignore_errors=True)
        return tempfile.mkdtemp(prefix=_HIDDEN, dir=self.folder.resolve())

    def _publish(self, work: Path, number: int) -> None:
        """Give a whole state its name, under which it counts more than older ones, then remove these."""
        older, target, again = list(self.folder.glob("training_state-*")), self.folder / f"training_state-{number}", 0
        while target.exists():  # of the same step, before the dev slice was evaluated
            again += 1
            target = self.folder / f"training_state-{number}.{again}"
        work.rename(target)
        for path in older:
            _discard(path)

    def clear(self) -> None:
        """Remove what is no longer needed when a run is finished."""
        if self._processes.is_rank_zero:
            for path in [*self.folder.glob("training_state-*"), *self.folder.glob(f"{_HIDDEN}*")]:
                _discard(path)


def _discard(path: Path) -> None:
    """Remove a state so that no half of it is ever taken for one."""
    if not path.name.startswith(_HIDDEN):
        path = path.rename(Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=path.parent)) / path.name).parent
    shutil.rmtree(path, ignore_errors=True)


def _tensor_files(path: Path) -> list[Path]:
    return sorted(path.glob("tensors-*-of-*.safetensors"))


class StoredTensors:
    """The tensors of a state, whose rows are divided among the files of the processes that wrote them.

    Args:
        path: Of the state.
        processes: That read it.
    """

    def __init__(self, path: Path, processes: ProcessGroup) -> None:
        self._processes = processes
        self._holders: dict[str, list[Any]] = {}
        for name in _tensor_files(path):
            file: Any = safe_open(name, framework="pt")
            for key in file.keys():  # noqa: SIM118  (it is no dict)
                self._holders.setdefault(key, []).append(file)

    @property
    def names(self) -> list[str]:
        """All of them."""
        return list(self._holders)

    def read_full(self, name: str) -> Tensor:
        """Return a tensor that each process had in full."""
        (file,) = self._holders[name]
        found: Tensor = file.get_tensor(name)
        return found

    def read_shard(self, name: str, like: Tensor) -> Tensor:
        """Return the rows that this process holds of a tensor that is sharded like another one."""
        if like.ndim == 0:
            return self.read_full(name)
        (first, last), begin, parts = self._processes.row_range(like), 0, [local_tensor(like)[:0].cpu()]
        for file in self._holders[name]:
            stored = file.get_slice(name)
            end = begin + stored.get_shape()[0]
            if begin < last and first < end:
                parts.append(stored[max(first, begin) - begin : min(last, end) - begin])
            begin = end
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedTensors:
    """Everything that a step changes: trained weights, the optimizer's moments, the moving average."""

    modules: Mapping[str, nn.Module]
    """The model, and a scalar head where there is one."""
    optimizer: torch.optim.Optimizer
    """Of these modules."""
    average: EmaWeights | None
    processes: ProcessGroup

    def collect(self) -> dict[str, Tensor]:
        """Return the tensors by name: each process its shards, and rank 0 what is not sharded."""
        self.processes.reshard()
        found: dict[str, Tensor] = {
            f"{part}.{name}": parameter
            for part, module in self.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        if self.average is not None:
            found |= {f"average.{index}": value for index, value in enumerate(self.average.values)}
        return {name: value for name, value in found.items() if isinstance(value, DTensor) or self.processes.is_rank_zero}

    @torch.no_grad()
    def restore(self, stored: StoredTensors) -> None:
        """Put back what `collect` gave."""
        self.processes.reshard()
        for part, module in self.modules.items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    local_tensor(parameter).copy_(stored.read_shard(f"{part}.{name}", parameter))
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name in stored.names:
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                moments.setdefault(int(index), {})[key] = _moment(stored, name, trained[int(index)])
        self.optimizer.load_state_dict({"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]})
        if self.average is not None:
            for number, value in enumerate(self.average.values):
                local_tensor(value).copy_(stored.read_shard(f"average.{number}", value))


def _moment(stored: StoredTensors, name: str, parameter: Tensor) -> Tensor:
    if name.endswith(".step"):
        return stored.read_full(name)
    value = torch.empty_like(parameter)
    local_tensor(value).copy_(stored.read_shard(name, parameter))
    return value


def _row_or_refuse(value: object) -> dict[str, Any]:
    if isinstance(value, TrainingRow):
        return row_to_json(value)
    raise TypeError(f"a state holds JSON values and training rows, not {type(value).__name__}")
