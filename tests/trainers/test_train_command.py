"""Every recipe for two steps through the command line, on a model small enough to be retrained in a moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.trainers.recipes import RECIPES


def run(*arguments: object) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "posttrain", *map(str, arguments)], capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def digits_file(tmp_path: Path) -> Path:
    """A behavior that a random model over characters gets right now and then: the first letter must be the one asked for."""
    letters = "abcdefghijklmnop"
    rows = [{"id": c, "prompt": f"say {c}:", "answer": c, "references": [f"{c}"]} for c in letters]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "letters.yaml"
    path.write_text(
        "problems: letters.jsonl\nverifier: {kind: regex, pattern: '([a-p])', select: first}\nprompt: {format: completion}\n"
        "sampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\nsplit: {train: 0.5, final: 0.2}\n"
    )
    return path


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_two_steps_of_every_recipe(recipe: str, digits_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / recipe
    settings = {
        "sft": ["rows_per_batch=2"],
        "rft": ["rows_per_batch=1", "num_samples=64"],
        "grpo": ["group_size=64", "problems_per_batch=4"],
    }[recipe]
    flags = [flag for setting in [*settings, "num_steps=2", "learning_rate=1e-3"] for flag in ("--set", setting)]
    said = run("train", recipe, tiny_model, digits_file, "--out", out, *flags)
    assert "2 optimizer steps" in said
    before, after = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (tiny_model, out))
    AutoTokenizer.from_pretrained(out)
    moved = [bool((a != b).any()) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(moved)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert sum(record["event"] == "step" for record in log) == 2
    assert (out / "README.md").exists()
