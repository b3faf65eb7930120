"""Stages fed with a data set through the command line: each takes what it reads and refuses the rest in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.trainers.recipes.registry import RECIPES
from posttrain.trainers.training_types import Material

ROWS: dict[Material, list[dict[str, Any]]] = {
    Material.DEMONSTRATIONS: [{"prompt": "say hi:", "completion": "hi"}, {"prompt": "say no:", "completion": "no"}],
    Material.PAIRS: [
        {"prompt": "say hi:", "chosen": "hi", "rejected": "no"},
        {"prompt": "say no:", "chosen": "no", "rejected": "hi"},
    ],
    Material.LABELS: [
        {"prompt": "say hi:", "completion": "hi", "label": True},
        {"prompt": "say no:", "completion": "hi", "label": False},
    ],
    Material.STEPS: [{"prompt": "say hi:", "completions": ["h", "i"], "labels": [True, False]}],
    Material.PROMPTS: [{"prompt": "say hi:"}, {"prompt": "say no:"}],
}
CASES = [(name, kind) for name, recipe in RECIPES.items() for kind in ROWS if kind in recipe.reads]
TAUGHT = {"logit_kd", "gkd", "opd", "minillm"}


def write(folder: Path, kind: Material) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    return path


def test_every_kind_of_data_is_read_by_some_stage() -> None:
    assert {kind for _, kind in CASES} == set(ROWS)


@pytest.mark.parametrize(("recipe", "kind"), CASES)
def test_a_stage_learns_from_the_data_it_reads(
    recipe: str, kind: Material, sums_file: Path, tiny_model: Path, other_model: Path, tmp_path: Path
) -> None:
    out, data = tmp_path / "out", write(tmp_path, kind)
    settings = ["num_steps=1", "learning_rate=1e-3"]
    if "on_policy" in RECIPES[recipe].config.model_fields and kind is Material.DEMONSTRATIONS:
        settings.append("on_policy=0.0")
    flags = [flag for setting in settings for flag in ("--set", setting)]
    flags += ["--teacher", str(other_model)] if recipe in TAUGHT else []
    flags += ["--earlier", str(other_model)] if recipe == "replay" else []
    command = ["train", recipe, str(tiny_model), str(sums_file), "--data", str(data), "--out", str(out), *flags]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (result.output, result.exception)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert log[0].get("problems", 2.0) == (1.0 if kind is Material.STEPS else 2.0)  # those of the data, not the behavior's 15
    assert "1 optimizer steps" in result.output


@pytest.mark.parametrize(
    ("recipe", "kind", "readers"),
    [
        ("sft", Material.PAIRS, "dpo, ipo, kto, simpo, orpo, cpo, reward_model"),
        ("dpo", Material.DEMONSTRATIONS, "sft, dft, logit_kd, gkd, opd, replay"),
        ("dpo", Material.LABELS, "kto"),
        ("rft", Material.STEPS, "process_reward_model"),
        ("process_reward_model", Material.DEMONSTRATIONS, "sft, dft, logit_kd, gkd, opd, replay"),
        ("grpo", Material.PROMPTS, "gkd, opd, minillm"),
        ("sft", Material.PROMPTS, "gkd, opd, minillm"),
    ],
)
def test_a_stage_refuses_other_data(
    recipe: str, kind: Material, readers: str, sums_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    command = [
        "train",
        recipe,
        str(tiny_model),
        str(sums_file),
        "--data",
        str(write(tmp_path, kind)),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, BehaviorError)
    assert result.exception.code == "data_not_read"
    assert f"{recipe}: got {kind}, " in str(result.exception)
    assert set(str(result.exception).rpartition(": ")[2].split(", ")) == set(readers.split(", "))
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_rows_that_no_batch_would_hold_are_refused(sums_file: Path, tiny_model: Path, other_model: Path, tmp_path: Path) -> None:
    data = write(tmp_path, Material.DEMONSTRATIONS)
    command = ["train", "opd", tiny_model, sums_file, "--data", data, "--teacher", other_model, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert isinstance(result.exception, SettingsError)
    assert result.exception.code == "data_would_be_unused"


def test_a_data_set_and_a_run_are_not_given_together(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = write(tmp_path, Material.PAIRS)
    command = ["train", "dpo", tiny_model, sums_file, "--data", data, "--from", tmp_path, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert isinstance(result.exception, SettingsError)
    assert result.exception.code == "two_origins_of_rows"


@pytest.mark.parametrize("rule", ["refuse", "drop"])
def test_a_row_that_is_too_long_is_refused_or_dropped(rule: str, sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = [*ROWS[Material.DEMONSTRATIONS], {"prompt": "say much:", "completion": "hi" * 40}]
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [flag for setting in ("num_epochs=1", "max_length=60", f"too_long={rule}") for flag in ("--set", setting)]
    result = CliRunner().invoke(
        app, ["train", "sft", *map(str, (tiny_model, sums_file)), "--data", str(data), "--out", str(out), *flags]
    )
    if rule == "refuse":
        assert isinstance(result.exception, BehaviorError)
        assert result.exception.code == "row_too_long"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "rows.jsonl", "sums.yaml"]
        return
    assert result.exit_code == 0, (result.output, result.exception)
    assert "too long: 1 rows dropped" in result.output
    prepared = json.loads((out / "training_log.jsonl").read_text().splitlines()[0])
    assert (prepared["rows"], prepared["rows_dropped"]) == (2, 1)


def test_a_column_of_categories_does_not_stop_a_stage_that_imitates(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{**row, "label": label} for row, label in zip(ROWS[Material.DEMONSTRATIONS], ("greeting", "refusal"), strict=True)]
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "train",
        "sft",
        tiny_model,
        sums_file,
        "--data",
        data,
        "--out",
        out,
        "--set",
        "num_epochs=1",
        "--set",
        "rows_per_batch=1",
    ]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 0, (result.output, result.exception)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in log] == ["prepared", "step", "step", "movement"]


def test_columns_that_are_not_used_are_said(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({**row, "margin": 0.5, "id": "a"}) + "\n" for row in ROWS[Material.DEMONSTRATIONS]))
    command = ["train", "sft", str(tiny_model), str(sums_file), "--data", str(data), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--set", "num_steps=1"])
    assert result.exit_code == 0, (result.output, result.exception)
    said = [line for line in " ".join(result.output.split("\n")).split("sft: ") if "not used" in line]
    assert len(said) == 1
    assert "id, margin" in said[0]


def test_rows_count_by_their_weight(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    first, second = ROWS[Material.DEMONSTRATIONS]

    def loss(out: str, *rows: dict) -> tuple[float, str]:
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["train", "sft", str(tiny_model), str(sums_file), "--data", str(data), "--out", str(tmp_path / out)]
        result = CliRunner().invoke(app, [*command, "--set", "num_steps=1"])
        assert result.exit_code == 0, (result.output, result.exception)
        log = (tmp_path / out / "training_log.jsonl").read_text().splitlines()
        return json.loads(log[1])["loss"], " ".join(result.output.split())

    twice, said = loss("twice", first, first, second)
    assert "column weight" not in said
    weighted, said = loss("weighted", {**first, "weight": 3}, {**second, "weight": 1.5}, {**second, "weight": 0})
    assert weighted == pytest.approx(twice, rel=1e-5)
    assert "by their column weight, from 1.5 to 3; 1 rows of weight 0 are left out" in said
    even, _ = loss("even", first, second)
    assert even != pytest.approx(twice, rel=1e-3)
