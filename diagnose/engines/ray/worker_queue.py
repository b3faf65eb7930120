"""Calls of an engine's methods, done by whichever of several Ray actors is free.

Every call must be idempotent: a call whose worker died is done again by another one, and its progress is reported once. The queue lives
in the process that made it, and works while a call is waited for.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posttrain.diagnose.engines.base import Codec, Engine, EngineInfo, OnTokens, ignore_tokens
from posttrain.diagnose.engines.ray.worker_process import POLL_SECONDS, Call, ProgressBoard, Reply, Worker
from posttrain.diagnose.errors import ModelError, PosttrainError, SettingsError

_ATTEMPTS = 3
"""Workers that a call may end, and times in a row that a worker may end while it opens its engine."""
_PLACING_SECONDS = 120.0


class WorkerError(ModelError):
    """Workers end again and again over one piece of work, or while they open the model."""


@dataclass(kw_only=True, eq=False)
class _Job:
    """Calls that one caller waits for."""

    unread: deque[int] = field(default_factory=deque)
    done: deque[tuple[int, Any]] = field(default_factory=deque)
    error: PosttrainError | None = None
    dropped: bool = False


@dataclass(kw_only=True, eq=False)
class _Task:
    """A call on its way."""

    number: int
    index: int
    call: Call
    job: _Job
    attempts: int = 0
    forwarded: int = 0
    """Numbers of on_tokens that were passed on. A call that is done again reports the same ones again."""

    def forward(self, start: int, reported: Sequence[int]) -> None:
        """Pass on what is new of the numbers from the `start`-th on; what comes after a gap waits for the reply, which has all."""
        if start <= self.forwarded < start + len(reported):
            self.job.unread.extend(reported[self.forwarded - start :])
            self.forwarded = start + len(reported)


@dataclass(kw_only=True, eq=False)
class _Slot:
    """One worker, and after its death the next one in its place."""

    actor: Any
    placing: Any
    """Awaited until the process runs somewhere."""
    opening: Any = None
    since: float = field(default_factory=time.monotonic)
    where: str = ""
    info: EngineInfo | None = None
    calls: deque[tuple[_Task, Any]] = field(default_factory=deque)
    """Calls handed to it, in the order in which it does them."""

    @property
    def is_open(self) -> bool:
        """Whether its engine is open."""
        return self.info is not None

    @property
    def awaited(self) -> Any:
        """Return what it will answer next; None where it is idle."""
        if not self.is_open:
            return self.opening or self.placing
        return self.calls[0][1] if self.calls else None


class WorkerQueue:
    """Engines in Ray actors, and the calls that wait for them."""

    codec: Codec
    """That of the first engine that opened, here in this process."""

    def __init__(self, opener: Callable[[], Engine], *, workers: int, threads: int, num_cpus: float, num_gpus: float):
        """Start the actors and wait until every engine is open.

        Args:
            opener: Opens an engine; it is sent to every worker.
            workers: How many.
            threads: Threads of each.
            num_cpus: Processors that Ray sets aside for each.
            num_gpus: GPUs of each; the engine sees no others.

        Raises:
            WorkerError: processes end while they open the model.
            SettingsError: Ray finds no room for a worker within two minutes.
            ModelError: the model cannot be opened, or is another one elsewhere.
        """
        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=True)
        board = ray.remote(ProgressBoard).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        self._board = board.remote()
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if not num_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._actors = ray.remote(Worker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, runtime_env={"env_vars": environment}
        )
        self._opener = opener
        self._queue: deque[_Task] = deque()
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count()
        self._polled = 0.0
        self._failed_openings = 0
        self._first: _Slot | None = None
        self._slots = [self._new_slot() for _ in range(workers)]
        self._starting = True
        try:
            while not all(slot.is_open for slot in self._slots):
                self._step()
        except BaseException:
            self.close()
            raise
        self._starting = False

    @property
    def info(self) -> EngineInfo:
        """Facts about the engines."""
        if self._first is None or self._first.info is None:
            raise RuntimeError("this pool is closed")
        return self._first.info

    def run(self, calls: Sequence[Call], *, on_tokens: OnTokens = ignore_tokens) -> Iterator[tuple[int, Any]]:
        """Do the calls, the first ones first, and yield (index, result) of each as it ends.

        Where the caller stops listening, or `on_tokens` raises, the rest is cancelled.

        Args:
            calls: What to do.
            on_tokens: Progress of them all.

        Raises:
            WorkerError: a call ended three workers.
            PosttrainError: what a call raised.
        """
        if not self._slots:
            raise RuntimeError("this pool is closed")
        job = _Job()
        tasks = [_Task(number=next(self._numbers), index=i, call=call, job=job) for i, call in enumerate(calls)]
        self._tasks |= {task.number: task for task in tasks}
        self._queue.extend(tasks)
        try:
            for _ in tasks:
                while not job.done:
                    self._step()
                    while job.unread:
                        on_tokens(job.unread.popleft())
                    if job.error is not None:
                        raise job.error
                self._hand_out()  # no worker idles while the caller looks at the result
                yield job.done.popleft()
        finally:
            self._drop(job)

    def close(self) -> None:
        """End the workers."""
        if self._slots and ray.is_initialized():
            for actor in [*(slot.actor for slot in self._slots), self._board]:
                ray.kill(actor)
        self._slots = []

    def _step(self) -> None:
        """Hand out work, wait a moment for one answer, take it, and read the reported progress."""
        self._hand_out()
        awaited = {slot.awaited: slot for slot in self._slots if slot.awaited is not None}
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=POLL_SECONDS)
        for ref in ready:
            self._receive(awaited[ref], ref)
        self._check_placing()
        if time.monotonic() - self._polled > POLL_SECONDS:
            self._polled = time.monotonic()
            with contextlib.suppress(RayError):
                for number, start, reported in ray.get(self._board.take.remote(), timeout=10 * POLL_SECONDS):
                    if number in self._tasks:
                        self._tasks[number].forward(start, reported)

    def _hand_out(self) -> None:
        """Give every open worker one call, and the next one beside it as long as more wait than there are workers."""
        for depth in (1, 2):
            for slot in self._slots:
                if self._queue and slot.is_open and len(slot.calls) < depth:
                    if depth == 2 and len(self._queue) <= len(self._slots):
                        return
                    task = self._queue.popleft()
                    call = task.call
                    slot.calls.append((task, slot.actor.call.remote(task.number, call.method, call.args, call.kwargs)))

    def _receive(self, slot: _Slot, ref: Any) -> None:
        """Take a worker's answer, or its death."""
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            self._replace_dead(slot, f"{type(error.cause).__name__}: {error.cause}")
            return
        except RayError as error:
            self._replace_dead(slot, "the process ended" if "process" in str(error) else str(error))
            return
        if slot.is_open:
            self._finish(slot.calls.popleft()[0], pickle.loads(answer))
        elif slot.opening is None:
            slot.where, slot.opening = answer, slot.actor.open.remote()
        else:
            self._accept(slot, pickle.loads(answer))

    def _finish(self, task: _Task, reply: Reply) -> None:
        self._tasks.pop(task.number, None)
        if reply.error is not None:
            task.job.error = reply.error
        elif not task.job.dropped:
            task.forward(0, reply.reported)
            task.job.done.append((task.index, reply.result))

    def _accept(self, slot: _Slot, reply: Reply) -> None:
        """Take in a worker whose engine is open."""
        if reply.error is not None:
            self._replace(slot)
            raise reply.error
        info: EngineInfo
        info, codec = reply.result
        if self._first is None:
            self._first, self.codec = slot, codec
        known = self._first.info or info
        if known.fingerprint != info.fingerprint:
            self._replace(slot)
            raise ModelError(
                f"model {info.model}: is {info.fingerprint} in {info.sample_dtype} on {slot.where}, and {known.fingerprint} in {known.sample_dtype} "
                f"on {self._first.where}; give every machine the same files, and use machines of one kind",
                code="workers_differ",
            )
        slot.info, self._failed_openings = info, 0

    def _replace_dead(self, slot: _Slot, reason: str) -> None:
        """Put another worker in the place of one that died, and its calls back into the queue."""
        reason = " ".join(reason.split())[:200]
        tasks = [task for task, _ in slot.calls]
        self._replace(slot)
        if not slot.is_open:
            self._failed_openings += 1
            if self._failed_openings >= _ATTEMPTS:
                self._failed_openings = 0
                raise WorkerError(
                    f"workers: {_ATTEMPTS} in a row ended while they opened the model (last: {reason}); is there memory for it on every machine?",
                    code="workers_end_while_opening",
                )
        if tasks:  # it was doing the first one
            tasks[0].attempts += 1
            if tasks[0].attempts >= _ATTEMPTS:
                failed = tasks.pop(0)
                failed.job.error = WorkerError(
                    f"workers: {failed.call.what} ended {failed.attempts} of them (last: {reason}); is there memory for it? Use fewer workers "
                    "on a machine, or shorter samples",
                    code="call_ends_workers",
                )
        self._queue.extendleft(task for task in reversed(tasks) if not task.job.dropped)

    def _replace(self, slot: _Slot) -> None:
        ray.kill(slot.actor)
        self._slots[self._slots.index(slot)] = self._new_slot()

    def _new_slot(self) -> _Slot:
        actor = self._actors.remote(self._opener, self._board)
        return _Slot(actor=actor, placing=actor.place.remote())

    def _check_placing(self) -> None:
        """Refuse to wait for ever where Ray finds no room for a worker; later on, one worker is enough."""
        late = [slot for slot in self._slots if slot.opening is None and time.monotonic() - slot.since > _PLACING_SECONDS]
        if late and (self._starting or not any(slot.is_open for slot in self._slots)):
            raise SettingsError(
                f"workers: got {len(self._slots)}, Ray found no room for {len(late)} of them within {_PLACING_SECONDS:.0f} s; wait for other jobs to "
                "end, or ask for fewer workers (`ray status` says what is taken)",
                code="no_room_for_workers",
            )

    def _drop(self, job: _Job) -> None:
        """Drop the calls of a job, and cancel those that workers are doing."""
        job.dropped = True
        self._queue = deque(task for task in self._queue if task.job is not job)
        self._tasks = {number: task for number, task in self._tasks.items() if task.job is not job}
        running = [task.number for slot in self._slots for task, _ in slot.calls if task.job is job]
        if running:
            self._board.cancel.remote(running)
