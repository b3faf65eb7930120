"""Several processes that train one model, each with a share of its weights and of the work.

`torchrun` starts them, one per device. Weights, gradients and the optimizer's moments lie in shards (ZeRO, arXiv 1910.02054, as PyTorch's
`fully_shard`); each layer is gathered while it computes. Every process has every row of a batch and makes the same decisions about it,
but draws, grades, scores and runs backward only its share. A loss is a sum of shares that are known beforehand, so gradients are added, not
averaged, and the step is the one that a single process makes.

A process alone is one of one: it has everything, and exchanges nothing.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from posttrain.diagnose.engines.base import (
    BaseEngine,
    Completion,
    Engine,
    OnTokens,
    SampleRequest,
    ScoreRequest,
    TokenScores,
    ignore_tokens,
)
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Sampling
from posttrain.trainers.models.loading import best_device
from posttrain.trainers.step.logprobs import RUN_DECODER, run_decoder

T = TypeVar("T")
WeightGatherer = Callable[[], Iterable[Tensor]]
"""Gathers weights one by one, in the order of the copy that takes them."""
ModuleT = TypeVar("ModuleT", bound=nn.Module)

_PATIENCE = timedelta(days=7)
"""How long a process waits for the rows of another one, which may be sampling or measuring for hours."""


class ProcessGroup:
    """Those that train together: this one alone."""

    rank = 0
    """Which of them this one is."""
    size = 1
    """How many there are."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    @property
    def load_device(self) -> torch.device:
        """Where a model is put when it is read."""
        return best_device()

    def train_device(self, model: PreTrainedModel) -> torch.device:
        """Where a model will be trained."""
        return model.device

    def all_gather(self, value: T) -> list[T]:
        """What each process has to say, in their order; all of them must ask."""
        return [value]

    def broadcast(self, value: T) -> T:
        """What the first process says; all of them must ask."""
        return self.all_gather(value)[0]

    def shard(self, module: nn.Module) -> None:
        """Leave each process its shard of the weights, in place; every process must hold the same weights."""

    def reshard(self) -> None:
        """Drop the whole weights that a forward pass left beside the shards: before these are read, or changed by hand."""

    def gather_module(self, module: ModuleT) -> ModuleT:
        """The module with whole weights, on the first process at least; all of them must ask."""
        return module

    def gather_part(self, part: ModuleT) -> ModuleT:
        """A part of a module that `shard` took, with whole weights on every process; all of them must ask."""
        return part

    def empty_like(self, module: ModuleT) -> ModuleT:
        """A copy of a module that is not sharded, for weights that `fill` gives it."""
        return copy.deepcopy(module)

    @torch.no_grad()
    def load_weights(self, empty: ModuleT, weights: Iterable[Tensor]) -> ModuleT:
        """The module with these weights for its parameters, on the first process at least; all of them must ask."""
        for mine, weight in zip(empty.parameters(), weights, strict=True):
            if mine.data_ptr() != weight.data_ptr():
                mine.copy_(weight)
        return empty

    def copy_for_sampling(self, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        """What the embedded engine samples while `model` is trained: before it is sharded."""
        return model

    def sampling_engine(
        self, engine: Engine, model: PreTrainedModel, sampled: PreTrainedModel, weights: WeightGatherer | None = None
    ) -> Engine:
        """The engine of `copy_for_sampling`, renewed from the model in training: from its own weights, or from what is made of them."""
        return engine


class ShardedProcessGroup(ProcessGroup):
    """One process of several that `torchrun` started.

    Args:
        rank: Which one.
        size: How many.
        device: Its own.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._mesh = init_device_mesh(device.type, (size,))
        self._talk = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._shapes: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
        """Sharded module → the same without weights, in the class that it had."""

    @property
    def load_device(self) -> torch.device:
        """The processor: `shard` brings layer by layer to the device, which may have no room for all of them."""
        return torch.device("cpu")

    def train_device(self, model: PreTrainedModel) -> torch.device:
        """This process's device."""
        return self.device

    def all_gather(self, value: T) -> list[T]:
        """See `ProcessGroup`."""
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self._talk)
        return cast("list[T]", values)

    def broadcast(self, value: T) -> T:
        """See `ProcessGroup`."""
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self._talk)
        return said[0]

    def shard(self, module: nn.Module) -> None:
        """See `ProcessGroup`. Gradients of the shards are sums over the processes."""
        self._shapes[module] = self.empty_like(module)
        kinds = set(getattr(module, "_no_split_modules", None) or ())
        for layer in [part for part in module.modules() if type(part).__name__ in kinds]:
            fully_shard(layer, mesh=self._mesh)
        # The head's weight is read outside every forward function, from when the hidden states are there to the end of backward.
        fully_shard(module, mesh=self._mesh, reshard_after_forward=False)
        for part in _shards(module):
            part.set_force_sum_reduction_for_comms(True)
            part.set_gradient_divide_factor(1.0)
        if isinstance(module, PreTrainedModel):
            setattr(module, RUN_DECODER, partial(run_decoder, module))
            register_fsdp_forward_method(module, RUN_DECODER)

    def reshard(self) -> None:
        """See `ProcessGroup`."""
        for module in self._shapes:
            for part in _shards(module):
                part.reshard()

    def gather_module(self, module: ModuleT) -> ModuleT:
        """See `ProcessGroup`."""
        if module not in self._shapes:
            return module
        return self.load_weights(cast(ModuleT, self._shapes[module]), _whole_weights(module))

    def gather_part(self, part: ModuleT) -> ModuleT:
        """See `ProcessGroup`: a copy."""
        return _with_weights(part, [full_tensor(weight) for weight in part.parameters()])

    def empty_like(self, module: ModuleT) -> ModuleT:
        """See `ProcessGroup`: without weights."""
        return _with_weights(module, [torch.empty_like(weight, device="meta") for weight in module.parameters()])

    def load_weights(self, empty: ModuleT, weights: Iterable[Tensor]) -> ModuleT:
        """See `ProcessGroup`: a copy on the processor. The other processes get one without weights."""
        kept = [weight.cpu() if self.is_rank_zero else torch.empty_like(weight, device="meta") for weight in weights]
        return _with_weights(empty, kept)

    def copy_for_sampling(self, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        """A whole copy in the sampler's precision on this process's device."""
        sampled = _with_weights(model, [weight.detach().to(self.device, dtype, copy=True) for weight in model.parameters()])
        return sampled.to(self.device).requires_grad_(False)  # the buffers

    def sampling_engine(
        self, engine: Engine, model: PreTrainedModel, sampled: PreTrainedModel, weights: WeightGatherer | None = None
    ) -> Engine:
        """See `ProcessGroup`."""
        return GatheringEngine(engine, model, sampled, weights or partial(_whole_weights, model))


class GatheringEngine(BaseEngine):
    """An engine with whole weights of its own, which `refresh` gathers from the shards of the model in training."""

    is_live = True

    def __init__(self, engine: Engine, model: PreTrainedModel, sampled: PreTrainedModel, weights: WeightGatherer) -> None:
        self._engine, self._model, self._weights = engine, model, weights
        self.sampled = sampled
        self.info, self.codec = engine.info, engine.codec

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the live weights; all processes must ask."""
        for mine, live in zip(self.sampled.parameters(), self._weights(), strict=True):
            mine.copy_(live)
        for mine, live in zip(self.sampled.buffers(), self._model.buffers(), strict=True):
            mine.copy_(live)
        self._engine.refresh()

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """See `Engine`."""
        return self._engine.sample(requests, sampling, seed=seed, on_tokens=on_tokens)

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """See `Engine`."""
        return self._engine.score(requests, on_tokens=on_tokens)


def _with_weights(module: ModuleT, weights: Sequence[Tensor]) -> ModuleT:
    """A copy of a module that has other tensors for its parameters; tied ones stay tied, and nothing else is copied twice."""
    memo = {
        id(old): nn.Parameter(new, requires_grad=old.requires_grad) for old, new in zip(module.parameters(), weights, strict=True)
    }
    return copy.deepcopy(module, memo)


def _shards(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))


def _whole_weights(module: nn.Module) -> Iterator[Tensor]:
    """The parameters one by one, gathered from all processes."""
    for part in _shards(module):
        part.reshard()  # what a forward pass left gathered may be older than the last step
    for weight in module.parameters():
        yield full_tensor(weight)


def local_tensor(weight: Tensor) -> Tensor:
    """A weight, or this process's shard of it: the same memory, without a graph."""
    return (weight.to_local() if isinstance(weight, DTensor) else weight).detach()


def full_tensor(weight: Tensor) -> Tensor:
    """A weight, gathered from the shards of all processes, which must all ask; without a graph."""
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach()


def row_range(weight: Tensor) -> tuple[int, int]:
    """First and last + 1 of the rows of a whole weight that this process holds."""
    if not isinstance(weight, DTensor):
        return 0, weight.shape[0]
    height = -(-weight.shape[0] // _current.size)
    first = min(_current.rank * height, weight.shape[0])
    return first, min(first + height, weight.shape[0])


_current = ProcessGroup()


def is_rank_zero() -> bool:
    """Whether this process is the one of those that `torchrun` started that prints what all of them found."""
    return _started() == 1 or os.environ["RANK"] == "0"


def _started() -> int:
    """How many processes `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def current() -> ProcessGroup:
    """The processes that train together now."""
    return _current


@contextmanager
def join() -> Iterator[ProcessGroup]:
    """Meet the processes that `torchrun` started with this one; alone, where it started none or they have met.

    Raises:
        SettingsError: More processes than GPUs on this machine, or a PyTorch that is too old.
    """
    global _current
    if _started() == 1 or _current.size > 1:
        yield _current
        return
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise SettingsError(f"torchrun: got PyTorch {torch.__version__}; several processes need 2.8 or newer; use one process")
    device = _own_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
    _current = ShardedProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield _current
        _current.all_gather(None)  # the first one may still be writing
        dist.destroy_process_group()
    finally:
        _current = ProcessGroup()


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise SettingsError(
            f"torchrun: got process {local_rank + 1} on a machine with {torch.cuda.device_count()} GPUs; allowed is one process "
            "per GPU; use a smaller --nproc-per-node"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
