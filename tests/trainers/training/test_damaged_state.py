"""A damaged training state is refused in one line; nothing else is ever resumed from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.refusals import refused

from posttrain.diagnose.errors import RunError
from posttrain.trainers.distributed.processes import ProcessGroup
from posttrain.trainers.training.resume_state import ResumeStore

TENSORS = {"model.a": torch.arange(12.0).reshape(3, 4), "optimizer.0.step": torch.tensor(3.0)}
RECORD = {"log_bytes": 12, "progress": {"next_step": 3, "seconds_before": 0.25}}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Write a state; returns its folder."""
    ResumeStore(tmp_path, {"seed": 0}, ProcessGroup()).write(3, RECORD, TENSORS)
    (found,) = tmp_path.iterdir()
    return found


def read(state: Path) -> None:
    """Read the state and compare it with what was written."""
    stored = ResumeStore(state.parent, {"seed": 0}, ProcessGroup()).read()
    assert stored is not None
    assert {key: stored.record[key] for key in RECORD} == RECORD
    assert sorted(stored.tensors.names) == sorted(TENSORS)
    for name, value in TENSORS.items():
        assert torch.equal(stored.tensors.read_full(name), value)


def tensors_of(state: Path) -> Path:
    (found,) = state.glob("tensors-*")
    return found


def set_key(state: Path, key: str, value: object) -> None:
    content = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**content, key: value}))


def set_key_without_checksum(state: Path, key: str, value: object) -> None:
    content = json.loads((state / "state.json").read_text())
    del content["checksum"]
    (state / "state.json").write_text(json.dumps({**content, key: value}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no record": lambda state: (state / "state.json").unlink(),
    "an empty record": lambda state: (state / "state.json").write_text(""),
    "a record that is a list": lambda state: (state / "state.json").write_text("[]"),
    "a record nested without end": lambda state: (state / "state.json").write_text("[" * 100_000),
    "another seed in the record": lambda state: set_key(state, "identity", {"seed": 1}),
    "another position": lambda state: set_key(state, "log_bytes", 0),
    "another position and no checksum": lambda state: set_key_without_checksum(state, "log_bytes", 0),
    "an identity that is a text and no checksum": lambda state: set_key_without_checksum(state, "identity", "x"),
    "version 0": lambda state: set_key(state, "schema", 0),
    "version 3": lambda state: set_key(state, "schema", 3),
    "version 99": lambda state: set_key(state, "schema", 99),
    "files of another kind": lambda state: set_key(state, "files", 1),
    "no tensors": lambda state: tensors_of(state).unlink(),
    "truncated tensors": lambda state: tensors_of(state).write_bytes(tensors_of(state).read_bytes()[:-4]),
    "empty tensors": lambda state: tensors_of(state).write_bytes(b""),
    "tensors twice": lambda state: shutil.copy(tensors_of(state), state / "tensors-00002-of-00002.safetensors"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused(kind: str, state: Path) -> None:
    read(state)
    DAMAGES[kind](state)
    with refused(RunError, "unreadable_state"):
        read(state)


@pytest.mark.parametrize("name", ["state.json", "tensors-00001-of-00001.safetensors"])
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, state: Path) -> None:
    content = (state / name).read_bytes()
    refusals = 0
    for byte, bit in zip(range(len(content)), np.random.default_rng(0).integers(8, size=len(content)), strict=True):
        changed = bytearray(content)
        changed[byte] ^= 1 << int(bit)
        (state / name).write_bytes(changed)
        try:
            read(state)
        except RunError:
            refusals += 1
    assert refusals > 0.8 * len(content)
