"""Opening of a pool of engines: on this machine, or on every machine of a Ray cluster.

Each worker holds one engine on the processors and GPUs that Ray lends it: one device, or one tensor-parallel group.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.engines import check_model, check_workers, open_engine
from posttrain.diagnose.engines.base import Engine
from posttrain.diagnose.engines.ray.pieces import PieceSize
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Behavior

if TYPE_CHECKING:
    from posttrain.diagnose.engines.ray.pool_engine import PoolEngine

_ON_GPUS = ("transformers", "vllm")
_ALONE = "started_by_posttrain"
"""Marks a Ray that this process has started for itself."""


def open_pool(
    kind: str,
    model: str,
    behaviors: Sequence[Behavior],
    *,
    workers: int,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    size: PieceSize | None = None,
) -> PoolEngine:
    """Open a MODEL in several processes; start Ray on this machine, or join a cluster.

    Ray itself stays up until this process ends; `close` ends the workers.

    Args:
        kind: Name of an engine, as for `open_engine`.
        model: The MODEL; a path must hold the same files on every machine.
        behaviors: What a scripted engine answers.
        workers: How many engines.
        cpus_per_worker: Processors and threads of each; an even share of all there are by default (on a cluster that leaves none to a
            second pool).
        gpus_per_worker: GPUs of each: 1 by default where there are any; a tensor-parallel group of vLLM where more; .5 for two on one GPU.
        address: The cluster; by default RAY_ADDRESS, and without that Ray is started here.
        size: What a piece of work holds at most.

    Raises:
        SettingsError: Ray is missing, the cluster cannot be reached or has no room for that number of workers.
        ModelError: The model cannot be opened.
    """
    check_workers(workers)
    check_model(kind, model)
    _join(address)
    import ray

    from posttrain.diagnose.engines.ray.pool_engine import PoolEngine

    machines = _machines()
    if gpus_per_worker is None:
        gpus_per_worker = 1.0 if kind in _ON_GPUS and any(gpus for _, gpus in machines) else 0.0
    alone = _ALONE in ray.cluster_resources()
    if alone:  # nothing else runs here: processors may be shared by several pools, whose workers are seldom busy at once
        machines = [(max(cpus, workers * (cpus_per_worker or 1)), gpus) for cpus, gpus in machines]
    threads = share_processors(machines, workers, cpus_per_worker, gpus_per_worker)
    there = str(Path(model).resolve()) if Path(model).exists() else model  # workers have other working directories
    opener: Callable[[], Engine] = partial(open_engine, kind, there, tuple(behaviors))
    if kind == "vllm" and gpus_per_worker > 1:
        opener = partial(_open_vllm_group, there, math.ceil(gpus_per_worker))
    return PoolEngine(
        opener,
        workers=workers,
        threads=threads,
        num_cpus=0 if alone else threads,
        num_gpus=gpus_per_worker,
        name=model,
        size=size,
    )


def _open_vllm_group(model: str, devices: int) -> Engine:
    from posttrain.diagnose.engines.vllm.vllm_engine import VllmEngine

    return VllmEngine.open(model, tensor_parallel_size=devices)


def _join(address: str | None) -> None:
    """Join a cluster, or start Ray here; nothing where this process has Ray already."""
    if find_spec("ray") is None:
        raise SettingsError(
            "workers: Ray is not installed; pip install 'posttrain[ray]', or leave --workers out", code="missing_package"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # says what a worker without GPUs sees; `WorkerQueue` hides them
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "true")  # what a worker started ends with it
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ray.init(address="local", num_cpus=here, resources={_ALONE: 1}, include_dashboard=False, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"workers: no Ray cluster at {address} ({' '.join(str(error).split())[:120]}); start one with `ray start --head`, or unset RAY_ADDRESS",
            code="no_ray_cluster",
        ) from error


def _machines() -> list[tuple[float, float]]:
    """Return (processors, GPUs) of every machine of the cluster."""
    import ray

    return [(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) for node in ray.nodes() if node["Alive"]]


def share_processors(machines: Sequence[tuple[float, float]], workers: int, cpus: int | None, gpus: float) -> int:
    """Return the processors of each worker: what is asked for, or as many as all workers can have.

    Raises:
        SettingsError: There is no room for that number of workers.
    """

    def room(each: int) -> int:
        return sum(int(min(have // each, have_gpus / gpus + 1e-9 if gpus else math.inf)) for have, have_gpus in machines)

    most = int(max(have for have, _ in machines))
    for each in [cpus] if cpus is not None else range(most, 0, -1):
        if room(each) >= workers:
            return each
    needs = f"{cpus or 1} processors" + (f" and {gpus:g} GPUs" if gpus else "")
    raise SettingsError(
        f"workers: got {workers} of {needs} each, Ray has room for {room(cpus or 1)}; use as many at most, or give each worker less",
        code="too_many_workers",
    )
