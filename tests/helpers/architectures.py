"""Tiny random models of several architectures, over one vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCAB = 32
_ENDS = {"bos_token_id": 1, "eos_token_id": 31, "pad_token_id": None}
_DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    **_ENDS,
}

ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_DECODER)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_DECODER, tie_word_embeddings=True)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_DECODER, head_dim=8, query_pre_attn_scalar=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3, **_ENDS)
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3, **_ENDS)
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            word_embed_proj_dim=8,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            init_std=0.3,
            **_ENDS,
        )
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2)),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**_DECODER, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, head_dim=4)
    ),
    "mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=4, **_ENDS)),
}
"""By name; `opt` has a projection between its hidden states and its head."""


def tiny_model_of(architecture: str, *, seed: int = 0) -> PreTrainedModel:
    """Return a random model in float32 and evaluation mode."""
    torch.manual_seed(seed)
    return ARCHITECTURES[architecture]().float().eval()
