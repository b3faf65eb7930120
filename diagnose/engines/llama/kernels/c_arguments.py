"""Torch tensors and numbers as functions in C take them."""

from __future__ import annotations

import ctypes

import torch

int64, float32 = ctypes.c_int64, ctypes.c_float


def pointer(x: torch.Tensor | None) -> ctypes.c_void_p:
    """Return the address of a contiguous tensor; null for none."""
    assert x is None or x.is_contiguous()
    return ctypes.c_void_p(None if x is None else x.data_ptr())


def heads_pointer(x: torch.Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64]:
    """Return the address of heads [N, H, D] and the stride of a row in elements; the heads of a row are contiguous."""
    assert x.stride()[1:] == (x.shape[2], 1)
    return ctypes.c_void_p(x.data_ptr()), int64(x.stride(0))
