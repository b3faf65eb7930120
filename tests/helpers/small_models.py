"""Random models of many architectures, small enough to build in a moment."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    FalconH1Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    Lfm2Config,
    MambaConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RobertaConfig,
    RwkvConfig,
)

VOCABULARY = 64
_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_POSITIONS = {"max_position_embeddings": 256}

ARCHITECTURES = {
    "learned positions": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256}),
    "learned positions with an offset": (OPTConfig, _SIZES | _POSITIONS | {"ffn_dim": 32, "word_embed_proj_dim": 16}),
    "positions behind the padding token": (
        RobertaConfig,
        _SIZES | _POSITIONS | {"intermediate_size": 32, "is_decoder": True},
    ),
    "local layers": (
        GPTNeoConfig,
        _POSITIONS
        | {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "window_size": 8, "attention_types": [[["global", "local"], 1]]},
    ),
    "alibi of bloom": (BloomConfig, {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "alibi of falcon": (FalconConfig, _SIZES | {"alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "alibi of mpt": (MptConfig, {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 256}),
    "rotary of a part": (GPTNeoXConfig, _SIZES | _POSITIONS | {"intermediate_size": 32}),
    "parallel layers": (PhiConfig, _SIZES | _POSITIONS | {"intermediate_size": 32}),
}
RECURRENT = {
    "state space": (MambaConfig, {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
    "convolutions": (
        Lfm2Config,
        _SIZES | {"num_key_value_heads": 1, "intermediate_size": 32, "layer_types": ["conv", "full_attention"]},
    ),
    "states within its modules": (
        RecurrentGemmaConfig,
        _SIZES | {"num_hidden_layers": 3, "intermediate_size": 32, "lru_width": 16, "attention_window_size": 32},
    ),
    "attention and a state space in one layer": (
        FalconH1Config,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 4,
        },
    ),
    "a state and no cache": (RwkvConfig, {"hidden_size": 16, "num_hidden_layers": 2, "context_length": 64}),
}


def small_model(kind: str, *, spread: float) -> PreTrainedModel:
    """Build a model of a kind, with weights of this standard deviation."""
    torch.manual_seed(0)
    make, settings = (ARCHITECTURES | RECURRENT)[kind]
    return AutoModelForCausalLM.from_config(make(**_COMMON, **settings, initializer_range=spread)).eval()


@torch.no_grad()
def logprobs_alone(model: PreTrainedModel, prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
    """Return [T] log-probabilities of a completion by the model's own forward function, without mask or padding."""
    ids = torch.tensor([prompt + completion])
    logprobs = model(input_ids=ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
