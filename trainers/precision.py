"""In which precision the forward pass runs: bfloat16 where the processor computes it natively, else float32.

Weights, gradients and optimizer moments are float32 in either case (mixed precision, arXiv 1710.03740; bfloat16 needs no loss
scaling).
"""

from __future__ import annotations

from pathlib import Path

import torch

from posttrain.diagnose.errors import SettingsError


def _processor_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; emulated bfloat16 is slower than float32."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16") or found.get("bf16"))
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return any(flag in flags for flag in ("amx_bf16", "avx512_bf16", "bf16"))


def compute_dtype(device: torch.device, setting: str) -> torch.dtype:
    """The dtype of the forward pass on a device.

    Args:
        device: Where the model lies.
        setting: `auto`, `bfloat16` or `float32`.

    Raises:
        SettingsError: An unknown setting.
    """
    if setting == "float32":
        return torch.float32
    if setting == "bfloat16":
        return torch.bfloat16
    if setting != "auto":
        raise SettingsError(f"autocast is {setting!r}; allowed: auto, bfloat16, float32")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and _processor_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context of a forward pass in this dtype; does nothing for float32 and float64."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
