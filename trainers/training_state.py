"""What a stopped run needs to go on as if it had never stopped: safetensors for what the optimizer changes, JSON for the rest.

Draws are named by seed and step, so the position in the data and every generator follow from the number of the next step; what is left is
written here. A state is a folder `training_state-STEP` that appears whole or not at all; the newest one counts.
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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.diagnose.errors import RunError
from posttrain.diagnose.store import say_differences
from posttrain.trainers.averaging import WeightAverage
from posttrain.trainers.row_json import row_to_json
from posttrain.trainers.types import TrainingRow

_NAME = re.compile(r"training_state-(\d+)")


def find_state(folder: Path) -> Path | None:
    """The newest state in the work folder of a run."""
    found = [(int(match[1]), path) for path in folder.glob("training_state-*") if (match := _NAME.fullmatch(path.name))]
    return max(found)[1] if found else None


def write_state(
    folder: Path, number: int, record: Mapping[str, Any], tensors: Mapping[str, Tensor], identity: Mapping[str, Any]
) -> None:
    """Write a state, then remove older ones.

    Args:
        folder: The work folder of the run.
        number: Of the next step.
        record: JSON values, and training rows.
        tensors: By name.
        identity: Settings and fingerprints that the state belongs to.
    """
    target, older = folder / f"training_state-{number}", list(folder.glob("training_state-*"))
    work = Path(tempfile.mkdtemp(prefix=".training_state-", dir=folder))
    try:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, work / "tensors.safetensors")
        text = json.dumps({"schema": 1, "identity": identity, **record}, default=_row_or_refuse)
        (work / "state.json").write_text(text, encoding="utf-8")
        for file in work.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if target.exists():  # of the same step, hence the same
            shutil.rmtree(target)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    for path in older:
        if path != target:
            shutil.rmtree(path, ignore_errors=True)


def remove_states(folder: Path) -> None:
    """What is no longer needed when a run is finished."""
    for path in folder.glob("training_state-*"):
        shutil.rmtree(path, ignore_errors=True)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a state; its tensors are read by `read_tensors`.

    Raises:
        RunError: It belongs to other settings, or cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        theirs = record["identity"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path} cannot be read ({error}); delete {path.parent} to begin anew") from error
    said = say_differences(theirs, identity)
    if said:
        raise RunError(
            f"{path.parent} holds an unfinished run with other settings ({said}); give the same settings to resume it, or delete it to "
            "begin anew"
        )
    return record


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What the optimizer had changed."""
    return load_file(path / "tensors.safetensors")


def trained_tensors(
    parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, Tensor]:
    """Everything that a step changes, by name: weights that are trained, the optimizer's moments, the average.

    Args:
        parts: The model, and a scalar head where there is one.
        optimizer: Of these parts.
        average: Of what the optimizer trains.
    """
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
    return found


@torch.no_grad()
def restore_tensors(
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Put back what `trained_tensors` gave."""
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"{part}.{name}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if average is not None:
        for number, value in enumerate(average.values):
            value.copy_(tensors[f"average.{number}"])


def _row_or_refuse(value: object) -> dict[str, Any]:
    if isinstance(value, TrainingRow):
        return row_to_json(value)
    raise TypeError(f"a state holds JSON values and training rows, not {type(value).__name__}")
