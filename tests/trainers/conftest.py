"""Fixtures of the trainers' tests; the helpers are in `helpers.training`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.training import make_tokenizer, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def model64() -> LlamaForCausalLM:
    return tiny_llama(dtype=torch.float64)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random model with the same tokens: a teacher, or an earlier checkpoint."""
    path = tmp_path_factory.mktemp("models") / "other"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    return path


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Return a behavior that a random model over characters gets right now and then."""
    rows = [{"id": f"{c}{i}", "prompt": f"say {c} {i}:", "answer": c, "references": [c]} for c in "abcd" for i in range(4)]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "letters.yaml"
    path.write_text(
        "problems: letters.jsonl\nverifier: {kind: regex, pattern: '([a-d])', select: first}\nprompt: {format: completion}\n"
        "sampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\nsplit: {train: 0.5, final: 0.2}\n"
    )
    return path
