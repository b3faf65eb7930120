"""Several processes that train one model, each with a shard of its weights and a share of the work.

`torchrun` starts them, one per device. Weights, gradients and the optimizer's moments lie in shards (ZeRO, arXiv 1910.02054, as PyTorch's
`fully_shard`); each layer is gathered while it computes.
"""

from __future__ import annotations

import atexit
import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from posttrain.diagnose.engines.base import BaseEngine, Engine
from posttrain.diagnose.errors import SettingsError
from posttrain.trainers.distributed.launch import num_launched
from posttrain.trainers.distributed.processes import ModuleT, ProcessGroup, T, WeightGatherer, full_tensor

RUN_DECODER = "run_decoder"
"""Name of the method of a sharded model that runs `run_decoder`: its weights are gathered for the methods that FSDP knows of."""
_TIMEOUT = timedelta(days=7)
"""How long a process waits for the rows of another one, which may be sampling or measuring for hours."""


def run_decoder(model: PreTrainedModel, **inputs: Tensor | bool | None) -> Tensor:
    """Return the last hidden states [B, S, H], without the head."""
    hidden: Tensor = model.get_decoder()(**inputs).last_hidden_state
    return hidden


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
        self._gloo = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        self._shapes: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
        """Sharded module → the same without weights, in the class that it had."""

    @property
    def load_device(self) -> torch.device:
        """See `ProcessGroup`: the processor, since `shard` moves layer by layer to the device, which may be too small for all of them."""
        return torch.device("cpu")

    def train_device(self, model: PreTrainedModel) -> torch.device:
        """See `ProcessGroup`: the device of this process."""
        return self.device

    def all_gather(self, value: T) -> list[T]:
        """See `ProcessGroup`."""
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value, group=self._gloo)
        return cast("list[T]", values)

    def broadcast(self, value: T) -> T:
        """See `ProcessGroup`."""
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._gloo)
        return values[0]

    def row_range(self, weight: Tensor) -> tuple[int, int]:
        """See `ProcessGroup`."""
        if not isinstance(weight, DTensor):
            return 0, weight.shape[0]
        height = -(-weight.shape[0] // self.size)
        first = min(self.rank * height, weight.shape[0])
        return first, min(first + height, weight.shape[0])

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
        return self.load_weights(cast(ModuleT, self._shapes[module]), _full_weights(module))

    def gather_part(self, part: ModuleT) -> ModuleT:
        """See `ProcessGroup`: a copy."""
        return _with_weights(part, [full_tensor(weight) for weight in part.parameters()])

    def empty_like(self, module: ModuleT) -> ModuleT:
        """See `ProcessGroup`: without weights."""
        return _with_weights(module, [torch.empty_like(weight, device="meta") for weight in module.parameters()])

    def load_weights(self, module: ModuleT, weights: Iterable[Tensor]) -> ModuleT:
        """See `ProcessGroup`: a copy on the processor. The other processes get one without weights."""
        kept = [weight.cpu() if self.is_rank_zero else torch.empty_like(weight, device="meta") for weight in weights]
        return _with_weights(module, kept)

    def copy_for_sampling(self, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        """See `ProcessGroup`: a full copy in the sampler's precision on this process's device."""
        sampled = _with_weights(model, [weight.detach().to(self.device, dtype, copy=True) for weight in model.parameters()])
        return sampled.to(self.device).requires_grad_(False)  # the buffers

    def sampling_engine(
        self, engine: Engine, model: PreTrainedModel, sampled: PreTrainedModel, weights: WeightGatherer | None = None
    ) -> Engine:
        """See `ProcessGroup`."""
        return GatheringEngine(engine, model, sampled, weights or partial(_full_weights, model))


class GatheringEngine(BaseEngine):
    """An engine with full weights of its own, which `refresh` gathers from the shards of the model in training."""

    is_live = True

    def __init__(self, engine: Engine, model: PreTrainedModel, sampled: PreTrainedModel, weights: WeightGatherer) -> None:
        self._engine, self._model, self._weights = engine, model, weights
        self.sampled = sampled
        self.info, self.codec, self.sample, self.score = engine.info, engine.codec, engine.sample, engine.score

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the live weights; all processes must ask."""
        for mine, live in zip(self.sampled.parameters(), self._weights(), strict=True):
            mine.copy_(live)
        for mine, live in zip(self.sampled.buffers(), self._model.buffers(), strict=True):
            mine.copy_(live)
        self._engine.refresh()


def _with_weights(module: ModuleT, weights: Sequence[Tensor]) -> ModuleT:
    """Return a copy of a module that has other tensors for its parameters; tied ones stay tied, and nothing else is copied twice."""
    memo = {
        id(old): nn.Parameter(new, requires_grad=old.requires_grad) for old, new in zip(module.parameters(), weights, strict=True)
    }
    return copy.deepcopy(module, memo)


def _shards(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))


def _full_weights(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters one by one, gathered from all processes."""
    for part in _shards(module):
        part.reshard()  # what a forward pass left gathered may be older than the last step
    for weight in module.parameters():
        yield full_tensor(weight)


@contextmanager
def join() -> Iterator[ProcessGroup]:
    """Join the processes that `torchrun` started; a process that was started alone is its own group.

    Processes that have met stay together until they end: a group that is left and made anew finds the addresses of the first one in torchrun's
    store, and waits for ever.

    Raises:
        SettingsError: More processes than GPUs on this machine, or a PyTorch that is too old.
    """
    if num_launched() == 1:
        yield ProcessGroup()
        return
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise SettingsError(
            f"torchrun: got PyTorch {torch.__version__}; several processes need 2.8 or newer; use one process", code="old_torch"
        )
    device = _own_device(int(os.environ.get("LOCAL_RANK", "0")))
    processes = _meet(device)
    try:
        yield processes
        processes.all_gather(None)  # rank 0 may still be writing
    except BaseException:
        atexit.unregister(_part)  # it would wait for a process that is gone
        raise


@cache
def _meet(device: torch.device) -> ShardedProcessGroup:
    if not dist.is_initialized():
        dist.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl")
        atexit.register(_part)
    return ShardedProcessGroup(dist.get_rank(), dist.get_world_size(), device)


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise SettingsError(
            f"torchrun: got process {local_rank + 1} on a machine with {torch.cuda.device_count()} GPUs; allowed is one process "
            "per GPU; use a smaller --nproc-per-node",
            code="too_many_processes",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
