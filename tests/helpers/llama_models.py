"""Tiny random Llama-like models with the shapes that the kernels tell apart, and random tokens."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

SIZES = {"vocab_size": 73, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "initializer_range": 0.2}
SIZES |= {"max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
KINDS = {
    "grouped": (LlamaForCausalLM, LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)),
    "eight share a key head": (LlamaForCausalLM, LlamaConfig(**SIZES, num_attention_heads=8, num_key_value_heads=1, head_dim=32)),
    "biases": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=4, attention_bias=True, mlp_bias=True),
    ),
    "norms of heads": (Qwen3ForCausalLM, Qwen3Config(**SIZES, num_attention_heads=6, num_key_value_heads=2, head_dim=16)),
}


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model_class, config = KINDS[kind]
    model = model_class(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    return model


def tokens(num: int, seed: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.random.default_rng(seed).integers(3, 73, num))
