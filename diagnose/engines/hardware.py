"""Which precisions the hardware computes fast, or at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from posttrain.diagnose.errors import SettingsError

LOGPROB_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}
"""Mean |sampler − scorer| per token that precision alone explains: fp32 in other batch shapes moves a log-probability by 1e-5, bf16 by about
.02 on average (8 bits of mantissa on logits of size 20)."""


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype named `auto`, `float32`, `bfloat16` or `float16`; auto is bfloat16 where that is fast.

    Raises:
        SettingsError: There is no such dtype.
    """
    if name == "auto":
        return torch.bfloat16 if has_fast_bf16(device) else torch.float32
    known = {str(dtype).removeprefix("torch."): dtype for dtype in LOGPROB_TOLERANCE}
    if name not in known:
        raise SettingsError(f"dtype: got {name!r}, allowed are auto, {', '.join(known)}", code="unknown_dtype")
    return known[name]


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether matrix products in bfloat16 run on units made for them; emulated bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _processor_has_bfloat16()


def pick_training_dtype(name: str, device: torch.device, capabilities: Mapping[str, object] | None = None) -> torch.dtype:
    """Return the dtype of training named `auto`, `float32` or `bfloat16`.

    auto is bfloat16 on a processor only where it has units for matrices (AMX, or those of ARM). With AVX-512 alone large products in bfloat16
    take about twice as long as in float32; sampling, which moves weights more than it multiplies, does not lose by it.

    Args:
        name: As given.
        device: What trains.
        capabilities: Of the processor, by their names in PyTorch; those of this one where None.

    Raises:
        SettingsError: There is no such dtype.
    """
    if name != "auto" or device.type != "cpu":
        return pick_dtype(name, device)
    found = processor_capabilities() if capabilities is None else capabilities
    return torch.bfloat16 if found.get("amx_bf16") or found.get("bf16") else torch.float32


def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN packs a weight of a dtype and multiplies by it on this processor; it is tried on a small one.

    In bfloat16 it raises without AVX-512 or AVX-NE-CONVERT (most processors with AVX2 only).
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    weight = torch.ones(16, 16, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        torch.ops.mkldnn._linear_pointwise(weight, packed, None, "none", [], "")
    except RuntimeError:
        return False
    return True


def processor_capabilities() -> Mapping[str, object]:
    """Return what the processor can do, by names of PyTorch or of Linux; nothing where neither tells."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return dict(capabilities())
    try:
        return dict.fromkeys(Path("/proc/cpuinfo").read_text(encoding="utf-8").split(), True)
    except OSError:
        return {}


def _processor_has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 natively; emulated bfloat16 is slower than float32."""
    found = processor_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16") or found.get("bf16"))
