"""`train --retain` from the command to the checkpoint, on a model small enough to be retrained in a moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.refusals import refused
from typer.testing import CliRunner

from posttrain import trainers
from posttrain.cli import app
from posttrain.cli.options import repeat_option, retained_names
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.progress import Reporter

FEW = ["num_steps=2", "rows_per_batch=4", "learning_rate=1e-3"]


class Said(Reporter):
    """Keeps the lines for people."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_kept(folder: Path, name: str, pattern: str) -> Path:
    """Write a behavior that is right wherever a sample has what the pattern finds."""
    rows = [
        {"id": f"{name}{i}", "prompt": f"{name} {i}:", "answer": "a", "split": "train" if i < 8 else "eval"} for i in range(10)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / f"{name}.yaml"
    path.write_text(
        f"problems: {name}.jsonl\nverifier: {{kind: regex, pattern: '{pattern}', select: first}}\nprompt: {{format: completion}}\n"
        "sampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\npurpose: retention\n"
    )
    return path


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_the_command_retains_behaviors(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    kept = [write_kept(tmp_path, name, "(a)") for name in ("kept", "also")]
    out = tmp_path / "out"
    flags = [flag for setting in [*FEW, "retain_share=0.5", "retain_samples=16"] for flag in ("--set", setting)]
    arguments = ["train", "sft", tiny_model, sums_file, "--retain", *kept, "--out", out, *flags]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    prepared, *steps, _ = log_of(out)
    assert prepared["retained_samples/kept"] > 0
    assert prepared["retained_samples/also"] > 0
    assert [step["retained_rows"] for step in steps] == [4, 4]
    tokens = sum(step["retained_tokens"] for step in steps)
    assert f"retained: 8 rows, {tokens:.0f} tokens of {sum(step['tokens'] for step in steps)} trained" in result.stdout
    card = (out / "README.md").read_text()
    assert "- kept: retained" in card
    assert "- also: retained" in card
    assert json.loads((out / "posttrain_config.json").read_text())["retain_share"] == 0.5


def test_a_behavior_without_a_right_sample_is_named_and_training_goes_on(
    sums_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    behaviors, said = [write_kept(tmp_path, "kept", "(a)"), write_kept(tmp_path, "never", "(a)QQQQ")], Said()
    arguments: dict[str, Any] = {"overrides": [*FEW, "retain_samples=16"], "reporter": said}
    result = trainers.train("sft", tiny_model, [sums_file], out=tmp_path / "out", retain=behaviors, **arguments)
    assert log_of(tmp_path / "out")[0]["retained_samples/never"] == 0
    assert result.retained_rows == 2 * 1
    assert len([line for line in said.lines if "never" in line and "warning" in line]) == 1
    assert not [line for line in said.lines if "kept" in line and "warning" in line]


def test_names_up_to_the_next_option_belong_to_it() -> None:
    given = "sft demo a --retain b c.yaml --out x --retain=d e -q f"
    assert " ".join(repeat_option(given.split(), "--retain")) == (
        "sft demo a --retain b --retain c.yaml --out x --retain=d --retain e -q f"
    )
    assert repeat_option(["--retain"], "--retain") == ["--retain"]


@pytest.mark.parametrize(("given", "names"), [(None, None), ([], None), (["none"], []), (["a", "b"], ["a", "b"])])
def test_none_is_no_behavior(given: list[str] | None, names: list[str] | None) -> None:
    assert retained_names(given) == names
    with refused(SettingsError, "none_among_names"):
        retained_names(["a", "none"])
