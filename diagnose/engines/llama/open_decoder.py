"""Which decoder samples with a Llama-like model's layers: each set of kernels has its own."""

from __future__ import annotations

from posttrain.diagnose.engines.llama.kernels.c_kernels import CKernels
from posttrain.diagnose.engines.llama.layers import LlamaLayers
from posttrain.diagnose.engines.llama.shared_prefix_decoder import SharedPrefixDecoder
from posttrain.diagnose.engines.llama.slot_decoder import SlotDecoder


def open_decoder(layers: LlamaLayers, *, max_tokens: int) -> SlotDecoder | SharedPrefixDecoder:
    """Open the decoder that goes with the layers' kernels, for samples of at most `max_tokens` tokens."""
    if isinstance(layers.kernels, CKernels):
        return SlotDecoder(layers, layers.kernels, max_tokens=max_tokens)
    return SharedPrefixDecoder(layers, max_tokens=max_tokens)
