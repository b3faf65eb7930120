"""`loop --dry-run`: what it says is what a loop measures and trains, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.diagnose.errors import UserError
from posttrain.diagnose.pipeline.request import DiagnoseRequest
from posttrain.diagnose.pipeline.run_plan import plan_run
from posttrain.trainers.diagnose_and_train.loop_plan import plan_loop
from posttrain.trainers.diagnose_and_train.loop_request import LoopRequest


def lines(model: Path, behavior: Path, out: Path, **given: Any) -> str:
    return "\n".join(plan_loop(LoopRequest(model=str(model), behaviors=[behavior], out=out, **given)))


def test_each_round_is_measured_as_the_start_is(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    alone = plan_run(DiagnoseRequest(model=str(tiny_model), behaviors=[sums_file], out=tmp_path / "run", samples=4))
    said = lines(tiny_model, sums_file, tmp_path / "loop", samples=4, rounds=3)
    assert all(line in said for line in alone.all_lines)
    assert f"{4 * alone.max_tokens:,} tokens are generated to measure" in said
    assert "each the stage that the diagnosis before it names" in said
    assert not (tmp_path / "loop").exists()


def test_stages_that_are_named_are_planned_one_by_one(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    said = lines(tiny_model, sums_file, tmp_path, stages=["sft", "grpo"], overrides=["num_steps=7"], budget_tokens=5000)
    first, second = said.split("round 1:")[1].split("round 2:")
    assert "steps: 7, learning rate" in first
    assert "from the references of the train problems" in first
    assert "samples of the model in training" in second
    assert "5,000 generated and trained tokens" in said


def test_what_cannot_be_run_is_refused_before(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    with refused(UserError, "missing_input"):
        lines(tiny_model, sums_file, tmp_path, stages=["replay"])
    with refused(UserError, "too_few_rounds"):
        lines(tiny_model, sums_file, tmp_path, rounds=0)


@pytest.mark.parametrize("dry", [True, False])
def test_a_folder_is_needed_for_what_is_written(dry: bool, sums_file: Path, tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["loop", str(tiny_model), str(sums_file), *(["--dry-run"] if dry else [])])
    assert (result.exit_code == 0) is dry
    assert ("diagnosis before the first round" in result.output) is dry
