"""The precision of the forward pass: bfloat16 where the processor computes it natively, else float32.

Weights, gradients and optimizer moments are float32 in either case (mixed precision, arXiv 1710.03740; bfloat16 needs no loss
scaling).
"""

from __future__ import annotations

import torch


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context of a forward pass in this dtype; it does nothing for float32 and float64."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
