"""The folder of a checkpoint: one training at a time, and what a killed one left half-written is not part of the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.other_process import another_process_in
from helpers.refusals import refused

from posttrain.diagnose.errors import RunError
from posttrain.trainers import loop, train


def test_a_second_training_is_refused(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "out", tiny_model
    with another_process_in(tmp_path / ".out.work") as other:
        with refused(RunError, "folder_in_use") as caught:
            train("sft", model, [sums_file], out=out)
        assert str(out) in str(caught.value)
        assert f"process {other.pid} " in str(caught.value)


def test_a_second_loop_is_refused(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    with another_process_in(tmp_path / "loop") as other:
        with refused(RunError, "folder_in_use") as caught:
            loop(tiny_model, [sums_file], out=tmp_path / "loop")
        assert f"process {other.pid} " in str(caught.value)


@pytest.mark.parametrize("left", ["file", "checkpoint"])
def test_what_a_killed_training_left_is_no_part_of_the_checkpoint(
    left: str, sums_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out, work = tmp_path / "out", tmp_path / ".out.work"
    (work / ".checkpoint-abc").mkdir(parents=True)
    (work / ".checkpoint-abc" / "model.safetensors").write_text("half")
    if left == "file":
        out.mkdir()
        (out / ".model.json.4711.tmp").write_text("half")
    train("sft", tiny_model, [sums_file], out=out, overrides=["num_steps=1", "rows_per_batch=2"])
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert (out / "model.safetensors").exists()
    assert not work.exists()
    with refused(RunError, "out_exists"):
        train("sft", tiny_model, [sums_file], out=out, overrides=["num_steps=1", "rows_per_batch=2"])
