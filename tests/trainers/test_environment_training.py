"""A stage trains on the train set of an environment, with its grader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.environments import use_stand_in, write_environment
from typer.testing import CliRunner

from posttrain.cli import app


def test_a_stage_trains_on_the_train_set(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(tmp_path, monkeypatch)
    more = "prompt: {format: completion}\nsampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}"
    path = write_environment(tmp_path, {"num_train": 6, "num_eval": 4, "reward": "any"}, more=more)
    out = tmp_path / "trained"
    sizes = ["--set", "num_steps=1", "--set", "rows_per_batch=2", "--set", "num_samples=8"]
    done = CliRunner().invoke(app, ["train", "rft", str(tiny_model), str(path), "--out", str(out), *sizes])
    assert done.exit_code == 0, (done.output, done.exception)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert sum(record["event"] == "step" for record in log) == 1
    assert log[0]["reward"] > 0.2
