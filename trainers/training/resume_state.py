"""What a stopped run needs to go on as if it had never stopped: safetensors for what the optimizer changes, JSON for the rest.

Draws are named by seed and step, so the position in the data and every generator follow from the number of the next step; what is left is
written here. A state is a folder `training_state-STEP` that appears whole or not at all; the newest one counts. Each process writes its rows
of every tensor in a file of its own, and takes the rows that it needs from whichever files hold them: another number of processes may go on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.storage.run_directory import say_differences
from posttrain.trainers.distributed.processes import current, local_tensor, row_range
from posttrain.trainers.models.ema import EmaWeights
from posttrain.trainers.row_json import row_to_json
from posttrain.trainers.training_types import TrainingRow

_NAME = re.compile(r"training_state-(\d+)(?:\.(\d+))?")
_HIDDEN = ".training_state-"
"""How the names of states begin that are not whole yet, or no longer."""


def find_state(folder: Path) -> Path | None:
    """The newest state in the work folder of a run."""
    found = [
        (int(match[1]), int(match[2] or 0), path)
        for path in folder.glob("training_state-*")
        if (match := _NAME.fullmatch(path.name))
    ]
    return max(found)[2] if found else None


def write_state(
    folder: Path, number: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor], identity: Mapping[str, Any]
) -> None:
    """Write a state, then remove older ones; all processes must ask.

    Args:
        folder: The work folder of the run; that of the first process counts, and all must see it.
        number: Of the next step.
        record: JSON values, and training rows; those of the first process count.
        tensors: By name; shards, and on the first process what lies whole on each.
        identity: Settings and fingerprints that the state belongs to.
    """
    processes = current()
    work = Path(processes.broadcast(_begin(folder) if processes.is_rank_zero else ""))
    try:
        mine = {name: local_tensor(value).contiguous() for name, value in tensors.items()}
        _write(work / f"tensors-{processes.rank + 1:05}-of-{processes.size:05}.safetensors", mine)
        processes.all_gather(None)  # now all of them are written
        if processes.is_rank_zero:
            text = json.dumps({"schema": 2, "files": processes.size, "identity": identity, **record}, default=_row_or_refuse)
            _write(work / "state.json", text)
            _put(work, folder, number)
    except BaseException:
        if processes.is_rank_zero:
            shutil.rmtree(work, ignore_errors=True)
        raise


def _begin(folder: Path) -> str:
    for path in folder.glob(f"{_HIDDEN}*"):  # of a run that was killed while it wrote
        shutil.rmtree(path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=_HIDDEN, dir=folder.resolve())


def _write(file: Path, content: str | dict[str, Tensor]) -> None:
    if isinstance(content, str):
        file.write_text(content, encoding="utf-8")
    else:
        save_file(content, file)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _put(work: Path, folder: Path, number: int) -> None:
    """Give a whole state its name, under which it counts more than older ones, then remove these."""
    older, target, again = list(folder.glob("training_state-*")), folder / f"training_state-{number}", 0
    while target.exists():  # of the same step, before a look at the dev slice
        again += 1
        target = folder / f"training_state-{number}.{again}"
    work.rename(target)
    for path in older:
        _discard(path)


def remove_states(folder: Path) -> None:
    """What is no longer needed when a run is finished."""
    for path in [*folder.glob("training_state-*"), *folder.glob(f"{_HIDDEN}*")]:
        _discard(path)


def _discard(path: Path) -> None:
    """Remove a state so that no half of it is ever taken for one."""
    if not path.name.startswith(_HIDDEN):
        path = path.rename(Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=path.parent)) / path.name).parent
    shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a state; its tensors are read by `StoredTensors`.

    Raises:
        RunError: It belongs to other settings, or cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        theirs, wanted, found = record["identity"], record["files"], len(_files(path))
        if found != wanted:
            raise ValueError(f"{found} of {wanted} files of tensors")
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read ({error}); delete {path.parent} to begin anew") from error
    said = say_differences(theirs, identity)
    if said:
        raise RunError(
            f"{path.parent} holds an unfinished run with other settings ({said}); give the same settings to resume it, or delete it to "
            "begin anew"
        )
    return record


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("tensors-*-of-*.safetensors"))


class StoredTensors:
    """The tensors of a state, whose rows lie one behind the other in the files of the processes that wrote them.

    Args:
        path: Of the state.
    """

    def __init__(self, path: Path) -> None:
        self._holders: dict[str, list[Any]] = {}
        for name in _files(path):
            file: Any = safe_open(name, framework="pt")
            for key in file.keys():  # noqa: SIM118  (it is no dict)
                self._holders.setdefault(key, []).append(file)

    @property
    def names(self) -> list[str]:
        """All of them."""
        return list(self._holders)

    def read_full(self, name: str) -> Tensor:
        """A tensor that lay whole on each process."""
        (file,) = self._holders[name]
        found: Tensor = file.get_tensor(name)
        return found

    def read_shard(self, name: str, like: Tensor) -> Tensor:
        """The rows that this process holds of a tensor that is sharded like another one."""
        if like.ndim == 0:
            return self.read_full(name)
        (first, last), begin, parts = row_range(like), 0, [local_tensor(like)[:0].cpu()]
        for file in self._holders[name]:
            stored = file.get_slice(name)
            end = begin + stored.get_shape()[0]
            if begin < last and first < end:
                parts.append(stored[max(first, begin) - begin : min(last, end) - begin])
            begin = end
        return torch.cat(parts)


def trained_tensors(
    parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, average: EmaWeights | None
) -> dict[str, Tensor]:
    """Everything that a step changes, by name: weights that are trained, the optimizer's moments, the average.

    Of several processes each has its shards, and the first one what is not sharded.

    Args:
        parts: The model, and a scalar head where there is one.
        optimizer: Of these parts.
        average: Of what the optimizer trains.
    """
    current().reshard()
    found: dict[str, Tensor] = {
        f"{part}.{name}": parameter
        for part, module in parts.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    for index, moments in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
    if average is not None:
        found |= {f"average.{index}": value for index, value in enumerate(average.values)}
    return {name: value for name, value in found.items() if isinstance(value, DTensor) or current().is_rank_zero}


@torch.no_grad()
def restore_tensors(
    stored: StoredTensors,
    parts: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: EmaWeights | None,
) -> None:
    """Put back what `trained_tensors` gave."""
    current().reshard()
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                local_tensor(parameter).copy_(stored.read_shard(f"{part}.{name}", parameter))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name in stored.names:
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = _moment(stored, name, trained[int(index)])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if average is not None:
        for number, value in enumerate(average.values):
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
