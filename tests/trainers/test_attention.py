"""Attention for layers that are written out, in C and in torch, beside float32 and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posttrain.trainers.attention import Attention, TorchAttention, open_attention
from posttrain.trainers.native.attention import AttentionShape, load_native_attention
from posttrain.trainers.step.packing import attention_mask

SHAPES = [(1, 2, 1, 1, 32), (2, 5, 2, 1, 32), (2, 33, 4, 2, 64), (2, 255, 9, 3, 64), (1, 64, 2, 2, 96), (1, 700, 3, 1, 32)]


@pytest.fixture(params=["matrix units", "torch"])
def where(request, monkeypatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr("posttrain.trainers.attention.load_native_attention", lambda: None)
    elif load_native_attention() is None:
        pytest.skip("no AMX or no C compiler here")
    return request.param


def draw_segments(sequences: int, length: int) -> Tensor:
    """A prompt, completions of uneven lengths that share it, and padding."""
    segments = torch.zeros(sequences, length, dtype=torch.long)
    for row in segments:
        at, number = length // 5, 1
        while at < 0.93 * length:
            size = int(torch.randint(3, 40, ()))
            row[at : at + size] = number
            at, number = at + size, number + 1
        row[at:] = -1
    return segments


def plain(qkv: Tensor, shape: tuple[int, ...], segments: Tensor | None) -> Tensor:
    """[B · S, H · D] in the precision of qkv."""
    sequences, length, heads, key_heads, width = shape
    every = qkv.view(sequences, length, -1, width).transpose(1, 2)
    q, k, v = every.split([heads, key_heads, key_heads], dim=1)
    k, v = (part.repeat_interleave(heads // key_heads, dim=1) for part in (k, v))
    seen = attention_mask(torch.zeros(sequences, length, dtype=torch.long) if segments is None else segments)
    scores = (q @ k.transpose(-1, -2) * width**-0.5).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(sequences * length, -1)


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def opened(shape: tuple[int, ...], segments: Tensor | None) -> Attention:
    sequences, length, heads, key_heads, width = shape
    whole = AttentionShape(sequences=sequences, length=length, heads=heads, key_heads=key_heads, width=width, scaling=width**-0.5)
    return open_attention(whole, segments)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_autograd(where: str, shape: tuple[int, ...], shared: bool) -> None:
    torch.manual_seed(0)
    sequences, length, heads, key_heads, width = shape
    segments = draw_segments(sequences, length) if shared else None
    attention = opened(shape, segments)
    assert isinstance(attention, TorchAttention) == (where == "torch")
    qkv = (1.5 * torch.randn(sequences * length, (heads + 2 * key_heads) * width)).bfloat16()
    slope = torch.randn(sequences * length, heads * width).bfloat16()
    if segments is not None:
        slope[segments.flatten() < 0] = 0  # nothing is predicted from padding
    out, normalisers = attention.forward(qkv)
    found = attention.backward(qkv, out, normalisers, slope)

    wide = qkv.float().requires_grad_()
    wanted = plain(wide, shape, segments)
    wanted.backward(slope.float())
    assert wide.grad is not None
    real = slice(None) if segments is None else segments.flatten() >= 0
    assert distance(out[real], wanted.detach()[real]) < 0.005  # bfloat16 has 8 bits
    parts = [heads * width, key_heads * width, key_heads * width]
    for mine, theirs in zip(found.split(parts, dim=1), wide.grad.split(parts, dim=1), strict=True):
        assert float((mine.float() - theirs).norm()) < 0.01 * float(theirs.norm()) + 1e-6


def test_the_number_of_threads_does_not_matter(where: str) -> None:
    if where == "torch":
        pytest.skip("torch's own")
    shape = (2, 70, 4, 2, 32)
    attention = opened(shape, None)
    qkv, slope = torch.randn(140, 8 * 32).bfloat16(), torch.randn(140, 4 * 32).bfloat16()
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            out, normalisers = attention.forward(qkv)
            found.append((out, normalisers, attention.backward(qkv, out, normalisers, slope)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
