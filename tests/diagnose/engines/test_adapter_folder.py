"""A LoRA adapter's folder is a MODEL: its base is found, both make the fingerprint, and what is loaded is their sum."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
from posttrain.diagnose.engines.models.loading import fingerprint_model, load_model, load_tokenizer
from posttrain.diagnose.engines.models.model_source import check_model, resolve_model
from posttrain.diagnose.errors import ModelError, SettingsError
from posttrain.diagnose.types import Sampling


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a random adapter, without a tokenizer of its own."""
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), settings).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 5, 9, 20]])).logits


def test_it_is_the_base_and_the_adapter(adapter: Path, tiny_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = logits(base)
    expected = logits(peft.PeftModel.from_pretrained(base, str(adapter)).eval())
    torch.testing.assert_close(logits(load_model(adapter, dtype=torch.float32)), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-2)
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(tiny_model).get_vocab()
    engine = TransformersEngine.open(str(adapter))
    assert engine.info.model_fingerprint == fingerprint_model(adapter)
    drawn = engine.sample([SampleRequest(key="a", prompt_ids=(1, 5), num_samples=2)], Sampling(max_tokens=4), seed="s")
    assert len(drawn[0]) == 2


@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head", "q_proj"]])
def test_an_adapter_of_one_of_two_tied_layers_does_not_change_the_other(
    targets: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "tied")
    settings = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of tied layers
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "tied", dtype=torch.float32)
        adapted = peft.get_peft_model(base, settings).eval()
        adapted.save_pretrained(tmp_path / "adapter")
        expected = logits(adapted)
        found = load_model(tmp_path / "adapter", dtype=torch.float32)
    torch.testing.assert_close(logits(found), expected, atol=1e-4, rtol=1e-4)


def test_the_fingerprint_covers_both(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = fingerprint_model(adapter)
    assert before != fingerprint_model(tiny_model)
    other = tmp_path / "the base"
    shutil.copytree(tiny_model, other)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    (moved / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "../the base"}))
    config = json.loads((other / "config.json").read_text())
    assert resolve_model(moved) == moved
    with_same = fingerprint_model(moved)
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert fingerprint_model(moved) != with_same
    load_model(moved, dtype=torch.float32)  # the base is found as seen from the adapter


def test_a_base_that_is_not_there(adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"base_model_name_or_path": "/nowhere/base"}))
    for use in (fingerprint_model, load_tokenizer, check_model):
        with pytest.raises(ModelError) as refused:
            use(adapter)
        assert refused.value.code == "base_not_found"
        assert "/nowhere/base" in str(refused.value)
    path.write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError) as refused:
        load_model(adapter, dtype=torch.float32)
    assert refused.value.code == "adapter_settings"


def test_without_peft(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError) as refused:
        load_model(adapter, dtype=torch.float32)
    assert refused.value.code == "missing_package"
