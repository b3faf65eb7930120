"""Which kernels compute a Llama-like model: those in C where they fit and load, else those in torch."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from posttrain.diagnose.engines.llama.kernels import amx_attention, c_kernels
from posttrain.diagnose.engines.llama.kernels.c_kernels import CKernels, computes, load_functions
from posttrain.diagnose.engines.llama.kernels.torch_kernels import Kernels


def choose_kernels(config: PreTrainedConfig, head_width: int, dtype: torch.dtype, device: torch.device) -> Kernels:
    """Choose the kernels of a model whose weights are copied into a precision.

    Args:
        config: Of the model.
        head_width: Of its attention.
        dtype: The precision; the functions in C take bfloat16 and float32.
        device: Where the copies lie; the functions in C run on a processor.
    """
    widths = (head_width, config.hidden_size, config.intermediate_size)
    fits = computes(dtype) and device.type == "cpu"
    if not fits or config.hidden_act not in ("silu", "swish") or any(width % c_kernels.WIDTHS for width in widths):
        return Kernels()
    library, reason = load_functions(dtype)
    if library is None:
        return Kernels(f"functions in C are not used ({reason})")
    has_tiles = dtype == torch.bfloat16 and head_width % amx_attention.WIDTHS == 0
    return CKernels(library, dtype, amx_attention.load_amx_attention() if has_tiles else None)
