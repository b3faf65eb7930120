"""The precision of the forward pass: bfloat16 where the processor computes it natively, else float32.

Weights, gradients and optimizer moments are float32 in either case (mixed precision, arXiv 1710.03740; bfloat16 needs no loss
scaling).
"""

from __future__ import annotations

import torch

from posttrain.diagnose.engines.hardware import has_fast_bf16
from posttrain.diagnose.errors import SettingsError


def compute_dtype(device: torch.device, setting: str) -> torch.dtype:
    """Return the dtype of the forward pass on a device.

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
        raise SettingsError(f"autocast is {setting!r}; allowed: auto, bfloat16, float32", code="unknown_autocast")
    return torch.bfloat16 if has_fast_bf16(device) else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context of a forward pass in this dtype; it does nothing for float32 and float64."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
