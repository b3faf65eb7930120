"""Every recipe for two steps through the command line, on a model small enough to be retrained in a moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
)
from typer.testing import CliRunner

from posttrain.cli import app
from posttrain.trainers.recipes.registry import RECIPES


def run(*arguments: object) -> str:
    """In this process: a child of its own for every recipe would take minutes."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


SAMPLED = ["group_size=64", "problems_per_batch=4"]
PAIRED = ["rows_per_batch=4", "num_samples=32"]
SETTINGS = {
    "sft": ["rows_per_batch=2"],
    "dft": ["rows_per_batch=2"],
    "rft": ["rows_per_batch=1", "num_samples=64"],
    "dpo": PAIRED, "ipo": PAIRED, "kto": PAIRED, "simpo": PAIRED, "orpo": PAIRED, "cpo": PAIRED, "reward_model": PAIRED,
    "grpo": SAMPLED, "rloo": SAMPLED, "dr_grpo": SAMPLED, "dapo": SAMPLED, "gspo": SAMPLED, "cispo": SAMPLED,
    "online_dpo": SAMPLED, "guided_grpo": SAMPLED, "luffy": SAMPLED, "hpt": SAMPLED,
    "ppo": [*SAMPLED, "updates_per_batch=1"],
    "chord": [*SAMPLED, "rows_per_batch=2"],
    "process": ["group_size=16", "problems_per_batch=4", "num_rollouts=1", "step_separator=a"],
    "process_reward_model": ["rows_per_batch=8", "num_samples=4", "num_rollouts=1", "step_separator=a"],
    "seq_kd": ["rows_per_batch=2", "num_samples=64"],
    "replay": ["rows_per_batch=2", "num_samples=64"],
    "logit_kd": ["rows_per_batch=2"],
    "gkd": ["on_policy=1.0", "problems_per_batch=4"],
    "opd": ["problems_per_batch=4"],
    "minillm": ["problems_per_batch=4"],
    "self_distill": ["num_samples=64", "rows_per_batch=2"],
    "merge": [],
}  # fmt: skip
TAUGHT = {"seq_kd", "logit_kd", "gkd", "opd", "minillm"}
LOADERS = {
    "reward_model": AutoModelForSequenceClassification,
    "process_reward_model": AutoModelForTokenClassification,
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps_of_every_recipe(recipe: str, letters: Path, tiny_model: Path, other_model: Path, tmp_path: Path) -> None:
    out = tmp_path / recipe
    steps = [] if recipe == "merge" else ["num_steps=2", "learning_rate=1e-3"]
    flags = [flag for setting in [*SETTINGS[recipe], *steps] for flag in ("--set", setting)]
    if recipe in TAUGHT:
        flags += ["--teacher", str(other_model)]
    elif recipe in ("replay", "merge"):
        flags += ["--earlier", str(other_model)]
    said = run("train", recipe, tiny_model, letters, "--out", out, *flags)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    if recipe != "merge":
        expected = 2 * log[0].get("num_updates", 1)
        assert f"{expected} optimizer steps" in said, log
        assert sum(record["event"] == "step" for record in log) == 2
    before = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    after = LOADERS.get(recipe, AutoModelForCausalLM).from_pretrained(out, dtype=torch.float32)
    AutoTokenizer.from_pretrained(out)
    pairs = zip(before.base_model.parameters(), after.base_model.parameters(), strict=True)
    assert any(bool((a != b).any()) for a, b in pairs)
    config = json.loads((out / "posttrain_config.json").read_text())
    assert set(config) == set(RECIPES[recipe].config.model_fields)
    assert recipe in (out / "README.md").read_text()


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.9, "top_p": 0.6}, {"do_sample": False, "temperature": 1e-6}, {"early_stopping": True}]
)
def test_generation_settings_that_transformers_does_not_write_cost_no_training(
    settings: dict, letters: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Vicuna and others come with a temperature without `do_sample`, which is read and refused in saving."""
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7], **settings}))
    out = tmp_path / "trained"
    run("train", "sft", tmp_path / "model", letters, "--out", out, "--set", "num_steps=1")
    assert GenerationConfig.from_pretrained(out).eos_token_id == [2, 7]


def test_a_checkpoint_stops_at_what_its_chats_end_with(letters: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A base model's settings stop at the end of a text alone; after training on chats it says the end of a turn."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.content }}<pad>{% endfor %}{% if add_generation_prompt %}: {% endif %}"
    )
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert GenerationConfig.from_pretrained(tmp_path / "model").eos_token_id == 2
    out = tmp_path / "trained"
    run("train", "sft", tmp_path / "model", letters, "--out", out, "--set", "num_steps=1")
    assert GenerationConfig.from_pretrained(out).eos_token_id == [2, tokenizer.pad_token_id]
