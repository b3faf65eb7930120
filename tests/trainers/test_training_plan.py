"""`train --dry-run`: what it says is what training does, no weight is read, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import UserError
from posttrain.trainers import train
from posttrain.trainers.train_request import TrainRequest, resolve_config
from posttrain.trainers.training_plan import TrainingPlan, plan_training

PAIRS = [{"prompt": f"say {i}:", "chosen": "hi", "rejected": "no"} for i in range(9)]
LABELS = [{"prompt": f"say {i}:", "completion": "hi", "label": i % 2 == 0} for i in range(9)]
CHATS = [{"prompt": f"say {i}:", "completion": "hi"} for i in range(9)]


def plan(stage: str, model: Path, behavior: Path, out: Path, *overrides: str, **given: Any) -> TrainingPlan:
    config = resolve_config(stage, None, overrides, None)
    behaviors = (load_behavior(behavior),)
    return plan_training(TrainRequest(stage=stage, model=str(model), behaviors=behaviors, config=config, out=out, **given))


def without_weights(model: Path, folder: Path) -> Path:
    """Write a model whose weights cannot be loaded."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(b"" if file.suffix == ".safetensors" else file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("stage", "rows", "overrides"),
    [
        ("sft", None, ("rows_per_batch=4",)),
        ("sft", CHATS, ("num_steps=2",)),
        ("dpo", PAIRS, ("rows_per_batch=2", "num_epochs=1")),
        ("kto", LABELS, ("rows_per_batch=4", "num_epochs=1")),
    ],
)
def test_steps_rows_and_rate_are_those_of_the_run(
    stage: str, rows: list[dict[str, Any]] | None, overrides: tuple[str, ...], sums_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}
    if rows is not None:
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"data": tmp_path / "data.jsonl"}
    planned = plan(stage, without_weights(tiny_model, tmp_path / "empty"), sums_file, tmp_path / "out", *overrides, **given)
    assert not (tmp_path / "out").exists()
    result = train(stage, tiny_model, [sums_file], out=tmp_path / "out", overrides=overrides, **given)
    log = [json.loads(line) for line in result.log.read_text().splitlines()]
    prepared = next(record for record in log if record["event"] == "prepared")
    assert planned.num_steps == prepared["num_batches"] == result.num_steps
    assert planned.num_rows == prepared["rows"]
    assert planned.generated_tokens == 0
    assert planned.trained_tokens == pytest.approx(result.trained_tokens, rel=0.1)
    assert f"learning rate {planned.learning_rate:g}" in " ".join(planned.lines)


def test_what_is_sampled_is_bounded(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = ("num_steps=5", "problems_per_batch=2", "group_size=4")
    planned = plan("grpo", tiny_model, sums_file, tmp_path / "out", *settings)
    limit = load_behavior(sums_file).sampling.max_tokens
    assert (planned.num_steps, planned.num_rows, planned.trained_tokens) == (5, None, None)
    assert planned.generated_tokens == 5 * 2 * 4 * limit


def test_the_command_prints_it_and_leaves_nothing(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    empty = without_weights(tiny_model, tmp_path / "empty")
    before = sorted(tmp_path.rglob("*"))
    command = ["train", "sft", str(empty), str(sums_file), "--out", str(tmp_path / "out"), "--dry-run", "--set", "num_steps=7"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    behavior = load_behavior(sums_file)
    assert f"{behavior.name}: " in result.stdout
    assert "num_steps=7" in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_wrong_is_refused_as_in_training(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(CHATS[0]) + "\n")
    for stage, given, code in (
        ("dpo", {"data": tmp_path / "data.jsonl"}, "data_not_read"),
        ("sft", {"data": tmp_path / "none.jsonl"}, "no_such_file"),
    ):
        with refused(UserError, code):
            plan(stage, tiny_model, sums_file, tmp_path / "out", **given)
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "say:", "completion": "a" * 600}) + "\n")
    with refused(UserError, "row_too_long"):
        plan("sft", tiny_model, sums_file, tmp_path / "out", data=tmp_path / "long.jsonl")
