"""Gradient checkpointing changes memory, not the gradient; dropout stays off."""

from __future__ import annotations

import pytest
import torch
from helpers.training import grade_parity, make_inputs, random_rows, tiny_llama
from helpers.training import gradient as helper_gradient
from transformers import OPTConfig, OPTForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.models.lora import LoraAdapter
from posttrain.trainers.recipes.overrides import load_config
from posttrain.trainers.recipes.registry import find_recipe
from posttrain.trainers.step.gradient_checkpointing import enable_gradient_checkpointing
from posttrain.trainers.training.preparation import make_stepper

SETTINGS = ["autocast=float32", "kl_weight=0.1"]


def gradient(tokenizer, *, recompute: bool, lora: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Of a GRPO batch, and how often a layer ran."""
    model = tiny_llama(attention_dropout=0.5)
    config = load_config("grpo", None, [*SETTINGS, *(["lora_rank=2"] if lora else [])])
    adapter = LoraAdapter(model, config) if lora else None
    if recompute:
        enable_gradient_checkpointing(model)
    inputs = make_inputs(model, tokenizer, grade=grade_parity)
    stepper = make_stepper(find_recipe("grpo").build(inputs, config), inputs, config, adapter)
    runs: list[None] = []
    first = next(module for module in model.modules() if isinstance(module, LlamaDecoderLayer))
    first.register_forward_pre_hook(lambda *_: runs.append(None))
    stepper.accumulate(random_rows(advantages=True), {})
    assert not any(module.training for module in model.modules())
    return helper_gradient(model), len(runs)


@pytest.mark.parametrize("lora", [False, True])
def test_the_gradient_is_the_same(tokenizer, lora: bool) -> None:
    plain, once = gradient(tokenizer, recompute=False, lora=lora)
    again, twice = gradient(tokenizer, recompute=True, lora=lora)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert any(bool(value.any()) for value in plain.values())
    assert twice > once


def test_layers_that_drop_out_by_the_same_flag_are_refused() -> None:
    config = OPTConfig(
        vocab_size=32, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
        word_embed_proj_dim=16, dropout=0.5,
    )  # fmt: skip
    with pytest.raises(SettingsError) as refused:
        enable_gradient_checkpointing(OPTForCausalLM(config).eval())
    assert refused.value.code == "not_reproducible"
    config.dropout = 0.0
    enable_gradient_checkpointing(OPTForCausalLM(config).eval())
