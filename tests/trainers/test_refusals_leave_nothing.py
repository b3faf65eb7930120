"""What is refused before the first step leaves no file and no folder, whenever that is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.refusals import refused
from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

from posttrain.diagnose.errors import UserError
from posttrain.trainers import train

Case = Callable[[Path, Path], dict[str, Any]]


def mamba(tiny_model: Path, folder: Path) -> dict[str, Any]:
    """Return a model that cannot be sampled with shared prompts."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = MambaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4, **ends)
    MambaForCausalLM(config).save_pretrained(folder / "mamba")
    tokenizer.save_pretrained(folder / "mamba")
    return {"stage": "grpo", "model": folder / "mamba", "overrides": ["num_steps=1", "problems_per_batch=2", "group_size=2"]}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one_prompt(tiny_model: Path, folder: Path) -> dict[str, Any]:
    """Return labelled answers to one prompt, from which no reference point can be told."""
    rows = [{"prompt": "say:", "completion": text, "label": text < "b"} for text in ("a", "ab", "b", "bc")]
    return {"stage": "kto", "data": write(folder, *rows)}


def pairs_of_one_prompt(tiny_model: Path, folder: Path) -> dict[str, Any]:
    rows = [{"prompt": "say:", "chosen": one, "rejected": other} for one, other in ("ab", "cd")]
    return {"stage": "kto", "data": write(folder, *rows)}


def margins(tiny_model: Path, folder: Path) -> dict[str, Any]:
    return {"stage": "dpo", "data": write(folder, {"prompt": "say:", "chosen": "a", "rejected": "b", "margin": 1})}


def other_material(tiny_model: Path, folder: Path) -> dict[str, Any]:
    return {"stage": "grpo", "data": write(folder, {"prompt": "say:", "completion": "a"})}


def too_long(tiny_model: Path, folder: Path) -> dict[str, Any]:
    return {"stage": "sft", "data": write(folder, {"prompt": "say:", "completion": "a" * 600})}


def same_teacher(tiny_model: Path, folder: Path) -> dict[str, Any]:
    return {"stage": "logit_kd", "teacher": tiny_model}


CASES: dict[str, tuple[Case, str]] = {
    "a model that cannot be sampled": (mamba, "not_decodable"),
    "labelled answers to one prompt": (one_prompt, "one_prompt"),
    "pairs of one prompt": (pairs_of_one_prompt, "one_prompt"),
    "margins": (margins, "margin_not_read"),
    "rows of another stage": (other_material, "data_not_read"),
    "rows that are too long": (too_long, "row_too_long"),
    "a teacher that is the policy": (same_teacher, "teacher_is_policy"),
}


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("out", ["out", "new/folder/out"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left(case: str, out: str, sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    make, code = CASES[case]
    given = {"model": tiny_model, **make(tiny_model, tmp_path)}
    before = everything(tmp_path)
    with refused(UserError, code) as caught:
        train(given.pop("stage"), given.pop("model"), [sums_file], out=tmp_path / out, **given)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before
