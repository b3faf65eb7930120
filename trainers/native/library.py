"""Calls the functions of training.c on torch tensors. Shapes and meanings stand there."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from posttrain.diagnose.engines.llama.kernels.arguments import at, real, whole
from posttrain.diagnose.engines.llama.kernels.compiler import load_library

_SOURCE = Path(__file__).with_name("training.c")
_PARTS = 64
LANES = 16
"""Widths must be multiples of it."""


class TrainingLibrary:
    """The functions of training.c."""

    def __init__(self, library: ctypes.CDLL):
        """Take the loaded library."""
        self._library = library

    def norm_forward(self, x: Tensor, delta: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        """Z = x + delta [R, C] fp32 (x itself where there is no delta), normalised [R, C] bf16, and 1 / rms [R]."""
        z = x if delta is None else torch.empty_like(x)
        y, inverse = torch.empty(x.shape, dtype=torch.bfloat16), torch.empty(len(x))
        self._library.norm_forward(*_shape(x), at(x), at(delta), at(weight), real(epsilon), at(z), at(y), at(inverse))
        return z, y, inverse

    def norm_again(self, z: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
        """The normalised lines [R, C] bf16 once more."""
        y = torch.empty(z.shape, dtype=torch.bfloat16)
        self._library.norm_again(*_shape(z), at(z), at(weight), at(inverse), at(y))
        return y

    def norm_backward(
        self, z: Tensor, weight: Tensor, inverse: Tensor, dy: Tensor, dz: Tensor, *, copy: bool
    ) -> tuple[Tensor | None, Tensor]:
        """Adds to dz [R, C] fp32 in place; a copy of it in bf16 where asked for, and the gradient of the weight [C]."""
        narrow = torch.empty(z.shape, dtype=torch.bfloat16) if copy else None
        partial = torch.empty(_PARTS, z.shape[1])
        self._library.norm_backward(*_shape(z), at(z), at(weight), at(inverse), at(dy), at(dz), at(narrow), at(partial))
        return narrow, partial.sum(0)

    def gate_forward(self, gate_and_up: Tensor) -> Tensor:
        """silu(gate) · up [R, C] of [R, 2 C], bf16."""
        h = torch.empty(len(gate_and_up), gate_and_up.shape[1] // 2, dtype=torch.bfloat16)
        self._library.gate_forward(*_shape(h), at(gate_and_up), at(h))
        return h

    def gate_backward(self, gate_and_up: Tensor, dh: Tensor) -> Tensor:
        """The gradients of gate and up [R, 2 C]; dh [R, C] becomes silu(gate) · up once more."""
        slopes = torch.empty_like(gate_and_up)
        self._library.gate_backward(*_shape(dh), at(gate_and_up), at(dh), at(slopes))
        return slopes

    def rotate(self, x: Tensor, heads: int, cosine: Tensor, sine: Tensor, *, back: bool = False) -> None:
        """The first heads of x [N, all heads · D] in place, by angles [N, D] fp32."""
        self._library.rotate(
            whole(len(x)), whole(heads), whole(cosine.shape[1]), whole(x.shape[1]), at(x), at(cosine), at(sine),
            real(-1.0 if back else 1.0),
        )  # fmt: skip

    def log_normaliser(self, logits: Tensor, targets: Tensor, *, entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of logits [R, V] bf16: log Σ exp [R], the logits of the targets [R] and the entropies [R]."""
        normaliser, of_target = torch.empty(2, len(logits)).unbind()
        entropies = torch.empty(len(logits)) if entropy else None
        self._library.log_normaliser(*_shape(logits), at(logits), at(targets), at(normaliser), at(of_target), at(entropies))
        return normaliser, of_target, entropies

    def logprob_slope(self, logits: Tensor, targets: Tensor, normaliser: Tensor, grad: Tensor) -> None:
        """Logits [R, V] bf16 become grad · (onehot(target) − softmax), in place."""
        self._library.logprob_slope(*_shape(logits), at(logits), at(targets), at(normaliser), at(grad))


def _shape(x: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return whole(x.shape[0]), whole(x.shape[1])


@functools.cache
def load_training_library() -> tuple[TrainingLibrary | None, str]:
    """The library, or None and why there is none."""
    library, reason = load_library(_SOURCE)
    return (None if library is None else TrainingLibrary(library)), reason
