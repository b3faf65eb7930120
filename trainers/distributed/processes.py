"""The group of processes that train one model together, as every part of training sees it: here, one process alone.

Every process has every row of a batch and makes the same decisions about it, but samples, grades, scores and runs backward only its
share. A loss is a sum of terms whose weights are known beforehand, so gradients are added, not averaged, and the step is the one that
a single process makes. `fsdp` holds the group of several processes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from posttrain.diagnose.engines.base import Engine

T = TypeVar("T")
WeightGatherer = Callable[[], Iterable[Tensor]]
"""Gathers full weights one by one, in the order of the copy that takes them."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def best_device() -> torch.device:
    """Return CUDA where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def local_tensor(weight: Tensor) -> Tensor:
    """Return a weight, or this process's shard of it: the same memory, without a graph."""
    return (weight.to_local() if isinstance(weight, DTensor) else weight).detach()


def full_tensor(weight: Tensor) -> Tensor:
    """Return a weight gathered from the shards of all processes, which must all ask; without a graph."""
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach()


class ProcessGroup:
    """The processes that train together: this one alone, which has everything and exchanges nothing.

    Of several processes all must call a method that gathers, broadcasts or shards.
    """

    rank = 0
    """Which of them this one is."""
    size = 1
    """How many there are."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes and prints for all."""
        return self.rank == 0

    @property
    def load_device(self) -> torch.device:
        """Where a model is put when it is read."""
        return best_device()

    def train_device(self, model: PreTrainedModel) -> torch.device:
        """Return where a model will be trained."""
        return model.device

    def all_gather(self, value: T) -> list[T]:
        """Return the value of each process, in the order of their ranks."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        return self.all_gather(value)[0]

    def row_range(self, weight: Tensor) -> tuple[int, int]:
        """Return the first and last + 1 of the rows of a full weight that this process holds."""
        return 0, weight.shape[0]

    def shard(self, module: nn.Module) -> None:
        """Leave each process its shard of the weights, in place; every process must hold the same weights."""

    def reshard(self) -> None:
        """Drop the full weights that a forward pass left beside the shards: before these are read, or changed by hand."""

    def gather_module(self, module: ModuleT) -> ModuleT:
        """Return the module with full weights, on rank 0 at least."""
        return module

    def gather_part(self, part: ModuleT) -> ModuleT:
        """Return a part of a module that `shard` took, with full weights on every process."""
        return part

    def empty_like(self, module: ModuleT) -> ModuleT:
        """Return a copy of a module that is not sharded, for weights that `load_weights` gives it."""
        return copy.deepcopy(module)

    @torch.no_grad()
    def load_weights(self, module: ModuleT, weights: Iterable[Tensor]) -> ModuleT:
        """Return what `empty_like` made with these weights for its parameters, on rank 0 at least."""
        for mine, weight in zip(module.parameters(), weights, strict=True):
            if mine.data_ptr() != weight.data_ptr():
                mine.copy_(weight)
        return module

    def copy_for_sampling(self, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        """Return what the embedded engine samples while `model` is trained; called before the model is sharded."""
        return model

    def sampling_engine(
        self, engine: Engine, model: PreTrainedModel, sampled: PreTrainedModel, weights: WeightGatherer | None = None
    ) -> Engine:
        """Return the engine over `copy_for_sampling`, refreshed from the weights of `model`, or from what `weights` makes of them."""
        return engine
