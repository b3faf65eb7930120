"""The exponential moving average of the weights (arXiv 1803.05407 averages equally; this forgets): steadier than the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from posttrain.trainers.distributed.interrupts import held_interrupts
from posttrain.trainers.distributed.processes import current, local_tensor


class EmaWeights:
    """Keeps decay · average + (1 − decay) · weights, in float32 or wider; it begins with the weights as they are.

    Of several processes each keeps the average of its shards.

    Args:
        parameters: What is trained.
        decay: In [0, 1).
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters, self.decay = tuple(parameters), decay
        self.values = tuple(each.detach().to(torch.promote_types(each.dtype, torch.float32), copy=True) for each in parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step in."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            local_tensor(value).lerp_(local_tensor(parameter).to(value.dtype), 1.0 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model be the average for a while; afterwards it is bit for bit what it was."""
        exchanged = False
        try:
            with held_interrupts():
                self._exchange()
                exchanged = True
            yield
        finally:
            if exchanged:
                with held_interrupts():
                    self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        current().reshard()  # a look leaves some of the weights gathered
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = local_tensor(parameter).clone()
            local_tensor(parameter).copy_(local_tensor(value))
            local_tensor(value).copy_(kept)
