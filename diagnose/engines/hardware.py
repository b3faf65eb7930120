"""Which precisions the hardware computes fast, or at all."""

from __future__ import annotations

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


def can_pack_bf16() -> bool:
    """Tell whether oneDNN packs a bfloat16 weight and multiplies by it on this processor; it is tried once on a small one.

    Without AVX-512 or AVX-NE-CONVERT (most processors with AVX2 only) it raises.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    weight = torch.ones(16, 16, dtype=torch.bfloat16)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        torch.ops.mkldnn._linear_pointwise(weight, packed, None, "none", [], "")
    except RuntimeError:
        return False
    return True


def _processor_has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 natively; emulated bfloat16 is slower than float32."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16") or found.get("bf16"))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return any(flag in flags for flag in ("amx_bf16", "avx512_bf16", "bf16"))
