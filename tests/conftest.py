"""What tests of several packages share: a tiny Llama on disk, a behavior of sums, and a folder for converted models."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ +-=?.,:\n"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Read nothing from, and leave nothing in, the cache folder of whoever runs the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("POSTTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def _interrupts() -> None:
    """Receive Ctrl-C as a program does that a person started; processes that run tests in parallel are started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random Llama of 20,000 weights over characters as a Hugging Face directory."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from tokenizers import decoders as tokenizer_decoders
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = tokenizer_decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def wide_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the tiny model with a head dimension of 32, the smallest that vLLM takes on a processor."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "wide"
    shutil.copytree(tiny_model, path)
    config = AutoConfig.from_pretrained(path)
    config.head_dim = 32
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def vllm_engine(wide_model: Path) -> Iterator[Any]:
    """Open our vLLM engine in single precision."""
    from posttrain.diagnose.engines.vllm.vllm_engine import VllmEngine

    engine = VllmEngine.open(str(wide_model), dtype="float32", enforce_eager=True)
    yield engine
    engine.close()


def sum_rows(num: int = 30) -> list[dict[str, object]]:
    """Return sums with a reference path in two steps; every prompt is another problem."""
    return [
        {
            "id": f"p{i}",
            "prompt": f"{i + 2} + {2 * i + 3} =",
            "answer": str(3 * i + 5),
            "references": [[f"{i + 2} + {2 * i + 3}", f"= {3 * i + 5}"]],
        }
        for i in range(num)
    ]


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSONL and give the path."""

    def write(rows: list[dict[str, object]], name: str = "sums.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def sums_file(tmp_path: Path, write_rows: Callable[..., Path]) -> Path:
    """Write a behavior file over `sum_rows` in completion format, with short answers."""
    write_rows(sum_rows(), "rows.jsonl")
    path = tmp_path / "sums.yaml"
    path.write_text(
        "problems: rows.jsonl\nverifier: {kind: number}\nprompt: {format: completion}\n"
        "sampling: {max_tokens: 20}\nmeasure: {primary_k: 4}\nsplit: {train: 0.5, final: 0.2}\n"
    )
    return path
