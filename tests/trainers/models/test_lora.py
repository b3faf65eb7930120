"""LoRA: only the adapter trains, the start needs no copy, sampling and checkpoints take merged weights."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import grade_parity, gradient, make_inputs, random_rows, tiny_llama
from transformers import AutoModelForCausalLM

from posttrain import trainers
from posttrain.diagnose.engines.base import SampleRequest
from posttrain.diagnose.engines.models.loading import load_model
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Sampling, Split
from posttrain.trainers.models.lora import LoraAdapter, MergedEngine
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import find_recipe
from posttrain.trainers.step.forward_scores import ScoringModel
from posttrain.trainers.step.logprobs import find_shortcuts, token_logprobs
from posttrain.trainers.step.optimizer import make_optimizer, trained_parameters
from posttrain.trainers.step.packing import collate, pack_rows
from posttrain.trainers.training.memory import model_state_gigabytes
from posttrain.trainers.training.preparation import make_stepper
from posttrain.trainers.training.trainer import run_recipe
from posttrain.trainers.training_types import TrainingRow

LORA = ["autocast=float32", "learning_rate=1e-2", "lora_rank=2"]


def logprobs(model, rows) -> torch.Tensor:
    batch = collate(pack_rows(rows, range(len(rows)), share=False, hidden_size=1, max_tokens=10_000))
    with torch.no_grad():
        return token_logprobs(model, batch, find_shortcuts(model), dtype=torch.float32).logprobs


def train(name: str, model, tokenizer, out: Path, *more: str, on_step=None):
    config = load_config(name, None, [*LORA, *more])
    adapter = LoraAdapter(model, config)
    inputs = make_inputs(model, tokenizer, grade=grade_parity)
    result = run_recipe(name, inputs, config, out=out, adapter=adapter, on_step=on_step)
    return result, adapter


GRPO = ["num_steps=3", "problems_per_batch=3", "group_size=4", "kl_weight=0.1", "updates_per_batch=2"]


def test_only_the_adapter_moves_and_the_merged_model_is_what_was_trained(model, tokenizer, tmp_path: Path) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    result, adapter = train("grpo", model, tokenizer, tmp_path, *GRPO)
    assert result.num_steps == 6
    after = {name.replace(".base_layer", ""): parameter for name, parameter in model.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert trained == {name for name in after if ".lora_" in name}
    assert len(trained) == 2 * 2 * 7  # two matrices at each of a layer's seven maps
    rows = random_rows()
    now = logprobs(model, rows)
    saved = AutoModelForCausalLM.from_pretrained(result.checkpoint, dtype=torch.float32)
    assert type(saved) is type(tiny_llama())
    torch.testing.assert_close(logprobs(saved, rows), now, atol=1e-5, rtol=0)
    with adapter.off():
        torch.testing.assert_close(logprobs(model, rows), logprobs(tiny_llama(), rows))
    assert not torch.allclose(logprobs(tiny_llama(), rows), now, atol=1e-2)


def test_the_reference_is_the_base_without_a_copy(tokenizer, tmp_path: Path) -> None:
    """A divergence to the start that is computed with the adapter off equals one that is computed with a copy."""
    model = tiny_llama()
    config = load_config("grpo", None, [*LORA, *GRPO])
    adapter = LoraAdapter(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    inputs = make_inputs(model, tokenizer, grade=grade_parity)
    stage = find_recipe("grpo").build(inputs, config)
    rows = random_rows(advantages=True)
    gradients = []
    for start in (None, tiny_llama()):
        stepper = make_stepper(stage, inputs, config, adapter)
        assert stepper.scorer.reference.model is model
        if start is not None:
            reference = ScoringModel(model=start, shortcuts=find_shortcuts(start))
            stepper = replace(stepper, scorer=replace(stepper.scorer, reference=reference))
        stepper.accumulate(rows, {})
        gradients.append(gradient(model))
        model.zero_grad(set_to_none=True)
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], msg=name)


def test_the_engine_samples_merged_weights(tokenizer) -> None:
    model = tiny_llama()
    config = load_config("sft", None, LORA)
    adapter = LoraAdapter(model, config)
    engine = MergedEngine.from_adapter(adapter, tokenizer, name="tiny", model_fingerprint="")
    request = [SampleRequest(key="a", prompt_ids=(1, 2, 3), num_samples=4)]
    sampling = Sampling(temperature=1.0, max_tokens=6)
    first = engine.sample(request, sampling, seed="s")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    engine.refresh()
    second = engine.sample(request, sampling, seed="s")
    assert [c.token_ids for c in first[0]] != [c.token_ids for c in second[0]]
    rows = [
        TrainingRow(
            behavior="b", problem_id="p", split=Split.TRAIN, group_id="g", prompt_ids=(1, 2, 3), completion_ids=c.token_ids
        )
        for c in second[0]
    ]
    drawn = torch.cat([torch.tensor(c.policy_logprobs) for c in second[0]])
    torch.testing.assert_close(logprobs(model, rows), drawn, atol=engine.info.logprob_tolerance * 5, rtol=0)


def test_memory_is_shared_where_nothing_is_added() -> None:
    model = tiny_llama()
    adapter = LoraAdapter(model, load_config("sft", None, [*LORA, "lora_targets=[q_proj]"]))
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in adapter.merged.parameters()}
    assert len(shared) == len(list(adapter.merged.parameters())) - 2  # a q_proj in each of two layers


def test_what_is_trained_and_held_is_said(tokenizer) -> None:
    whole, model = tiny_llama(), tiny_llama()
    size = sum(p.numel() for p in whole.parameters())
    config = load_config("sft", None, [*LORA, "lora_targets=[q_proj]"])
    full = model_state_gigabytes([whole], list(whole.parameters()), [], averaged=False)
    assert full == pytest.approx(16 * size / 1e9)
    two = model_state_gigabytes([whole, tiny_llama()], list(whole.parameters()), [], averaged=True)
    assert two == pytest.approx(24 * size / 1e9)
    adapter = LoraAdapter(model, config)
    held = model_state_gigabytes([model, adapter.merged], trained_parameters(make_optimizer(model, config)), [], averaged=False)
    added, q = 2 * 2 * (16 + 16), 2 * 16 * 16
    assert held == pytest.approx((4 * (size + q) + 16 * added) / 1e9)


@pytest.mark.slow
def test_adapters_resume_bit_for_bit(tokenizer, tmp_path: Path) -> None:
    def stop(record) -> None:
        if record.get("step") == 1:
            raise KeyboardInterrupt

    models = [tiny_llama() for _ in range(3)]
    whole, _ = train("ppo", models[0], tokenizer, tmp_path / "whole", *GRPO, "ema_decay=0.5")
    with pytest.raises(KeyboardInterrupt):
        train("ppo", models[1], tokenizer, tmp_path / "cut", *GRPO, "ema_decay=0.5", on_step=stop)
    again, _ = train("ppo", models[2], tokenizer, tmp_path / "cut", *GRPO, "ema_decay=0.5")
    for (name, a), b in zip(models[0].named_parameters(), models[2].parameters(), strict=True):
        assert torch.equal(a, b), name
    files = ("model.safetensors", "adapter/adapter_model.safetensors")
    for file in files:
        assert (whole.checkpoint / file).read_bytes() == (again.checkpoint / file).read_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # it warns of tied weights itself
def test_what_cannot_be_is_refused(tokenizer, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(SettingsError) as refused:
        LoraAdapter(tiny_llama(), load_config("sft", None, [*LORA, "lora_targets=[nothing]"]))
    assert refused.value.code == "unknown_lora_target"
    with pytest.raises(SettingsError) as refused:
        LoraAdapter(tiny_llama(), load_config("sft", None, [*LORA, "lora_targets=[lm_head]"]))
    assert refused.value.code == "tied_lora_target"
    model = tiny_llama()
    with pytest.raises(SettingsError) as refused:
        run_recipe("sft", make_inputs(model, tokenizer), load_config("sft", None, LORA), out=tmp_path)
    assert refused.value.code == "rank_without_adapter"
    with pytest.raises(SettingsError) as refused:
        load_config("merge", None, ["lora_rank=2"])
    assert refused.value.code == "setting_out_of_range"
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SettingsError) as refused:
        LoraAdapter(tiny_llama(), load_config("sft", None, LORA))
    assert refused.value.code == "missing_package"


def test_the_command_writes_an_adapter_that_is_a_model(sums_file: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "ckpt"
    overrides = ["num_steps=2", "rows_per_batch=2", "learning_rate=1e-2", "lora_rank=2"]
    trainers.train("sft", tiny_model, [sums_file], out=out, overrides=overrides)
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_model)
    merged, loaded = load_model(out, dtype=torch.float32), load_model(out / "adapter", dtype=torch.float32)
    base = load_model(tiny_model, dtype=torch.float32)
    for (name, a), b in zip(merged.named_parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)
    assert any(not torch.equal(a, b) for a, b in zip(merged.parameters(), base.parameters(), strict=True))
