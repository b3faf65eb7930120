"""Architectures that scale or cap their logits get the log-probabilities of their own forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.training import VOCAB, plain_logprobs, random_rows
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from posttrain.trainers.step.logprobs import find_shortcuts, token_logprobs
from posttrain.trainers.step.packing import collate, pack_rows

EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 8}
CHANGED: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3},
    "gemma2": {"final_logit_softcapping": 5.0, "head_dim": 8},
    "gemma3_text": {"final_logit_softcapping": 5.0, "head_dim": 8},
    "granite": {"logits_scaling": 4.0},
    "granitemoe": {"logits_scaling": 4.0, **EXPERTS},
    "granitemoeshared": {"logits_scaling": 4.0, **EXPERTS},
    "hyperclovax": {"logits_scaling": 0.3},
    "minicpm3": {"dim_model_base": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4},
    "gemma4_text": {"final_logit_softcapping": 5.0, "head_dim": 8, "global_head_dim": 8, "vocab_size_per_layer_input": VOCAB},
    "nanochat": {"final_logit_softcapping": 5.0},
    "recurrent_gemma": {"logits_soft_cap": 5.0, "lru_width": 16, "attention_window_size": 64},
    "vaultgemma": {"final_logit_softcapping": 5.0, "head_dim": 8},
    "falcon_h1": {"lm_head_multiplier": 0.3, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4},
}
UNCHANGED: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"final_logit_softcapping": None, "head_dim": 8},
    "phi3": {"pad_token_id": 0},
    "gpt2": {},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 32},
}


def make(kind: str, settings: dict[str, Any]) -> PreTrainedModel:
    """Return a small model whose logits are near 0, as they are at the start of training."""
    torch.manual_seed(0)
    shared = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(kind, **{**shared, **settings})
    return AutoModelForCausalLM.from_config(config).eval()


def compare(model: PreTrainedModel) -> bool:
    """Check token log-probabilities after the model's logits have grown; return whether the head was used by itself."""
    rows = random_rows(num_groups=2, group_size=2)
    shortcuts = find_shortcuts(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30.0)
        batch = collate(pack_rows(rows, range(len(rows)), share=shortcuts.shared_prefixes, hidden_size=16, max_tokens=64))
        found = token_logprobs(model, batch, shortcuts, dtype=torch.float32).logprobs
        wanted = {index: plain_logprobs(model, row) for index, row in enumerate(rows)}
    for index, values in zip(batch.rows, found.split(list(batch.lengths)), strict=True):
        torch.testing.assert_close(values, wanted[index], atol=1e-4, rtol=1e-4)
    return shortcuts.chunked_projection


@pytest.mark.parametrize("kind", CHANGED)
def test_logits_that_are_scaled_or_capped_behind_the_head_stay_so(kind: str) -> None:
    assert not compare(make(kind, CHANGED[kind]))


@pytest.mark.parametrize("kind", UNCHANGED)
def test_a_head_without_more_behind_it_is_used_by_itself(kind: str) -> None:
    assert compare(make(kind, UNCHANGED[kind]))
