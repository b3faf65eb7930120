"""Torch tensors and numbers as functions in C take them."""

from __future__ import annotations

import ctypes

import torch

whole, real = ctypes.c_int64, ctypes.c_float


def at(x: torch.Tensor | None) -> ctypes.c_void_p:
    """Where a dense tensor lies; null for none."""
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def heads_at(x: torch.Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    """Where lines of heads [N, H, D] lie, and how far one line is from the next; the heads of a line lie one behind the other."""
    assert x.stride()[1:] == (x.shape[2], 1)
    return ctypes.c_void_p(x.data_ptr()), whole(x.stride(0))
