"""The exponential moving average (EMA) of the weights, which varies less than the weights of the last step.

arXiv 1803.05407 averages all steps equally; this one weighs recent steps more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from posttrain.trainers.distributed.interrupts import held_interrupts
from posttrain.trainers.distributed.processes import ProcessGroup, local_tensor


class EmaWeights:
    """Keep decay · average + (1 − decay) · weights, in float32 or wider; it begins with the weights as they are.

    Each of several processes keeps the average of its shards.

    Args:
        parameters: What is trained.
        decay: In [0, 1).
        processes: That train together.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float, processes: ProcessGroup) -> None:
        self.parameters, self.decay, self._processes = tuple(parameters), decay, processes
        self.values = tuple(each.detach().to(torch.promote_types(each.dtype, torch.float32), copy=True) for each in parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights of one more step."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            local_tensor(value).lerp_(local_tensor(parameter).to(value.dtype), 1.0 - self.decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Exchange the weights for the average within a block; after it they are bit for bit what they were."""
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
        self._processes.reshard()  # an evaluation leaves some of the weights gathered
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = local_tensor(parameter).clone()
            local_tensor(parameter).copy_(local_tensor(value))
            local_tensor(value).copy_(kept)
