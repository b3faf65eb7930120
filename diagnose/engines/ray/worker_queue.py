"""Calls of an engine's methods, done by whichever of several Ray actors is free.

Every call must be idempotent: a call whose worker died is done again by another one, and its progress is told once. The queue lives in
the process that made it, and works while somebody waits for a call.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from posttrain.diagnose.engines.base import Codec, Engine, EngineInfo, OnTokens, ignore_tokens
from posttrain.diagnose.errors import ModelError, PosttrainError, SettingsError

_ATTEMPTS = 3
"""Workers that a call may end, and times in a row that a worker may end while it opens its engine."""
_POLL_S = 0.25
_PLACING_S = 120.0


class WorkerError(ModelError):
    """Workers end again and again over one piece of work, or while they open the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of an engine's method."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    what: str
    """What it does, for messages."""
    tells: bool = False
    """Whether the method takes on_tokens."""


# -------------------------------------------------------------------------------------------------------- in the other processes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reply:
    result: Any = None
    error: PosttrainError | None = None
    told: tuple[int, ...] = ()
    """Every number that on_tokens was called with."""


class _Cancelled(KeyboardInterrupt):
    """Nobody waits for this call any more."""


class _Board:
    """Where workers write their progress, and read which calls are cancelled."""

    def __init__(self) -> None:
        self._news: list[tuple[int, int, list[int]]] = []
        self._cancelled: set[int] = set()

    def tell(self, number: int, start: int, told: list[int]) -> bool:
        """Take the numbers told by a call from the `start`-th on; whether it is cancelled."""
        self._news.append((number, start, told))
        return number in self._cancelled

    def take(self) -> list[tuple[int, int, list[int]]]:
        """Hand over what was told since the last time."""
        news, self._news = self._news, []
        return news

    def cancel(self, numbers: list[int]) -> None:
        """Answer these calls with yes from now on."""
        self._cancelled.update(numbers)


class _Teller:
    """The on_tokens of a call in a worker: writes to the board a few times a second, and never waits for it."""

    def __init__(self, board: Any, number: int):
        self.told: list[int] = []
        self._board, self._number = board, number
        self._sent, self._last = 0, -1.0
        self._answer: Any = None

    def __call__(self, num_tokens: int) -> None:
        self.told.append(num_tokens)
        if time.monotonic() - self._last < _POLL_S:
            return
        self._last = time.monotonic()
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(RayError):  # without a board there is no progress, and the result is the same
                if ray.get(self._answer):
                    raise _Cancelled
        self._answer = self._board.tell.remote(self._number, self._sent, self.told[self._sent :])
        self._sent = len(self.told)


class _Worker:
    """Holds one engine in a process of its own. Replies are bytes: arrays that Ray hands over itself can only be read."""

    def __init__(self, opener: Callable[[], Engine], board: Any):
        self._opener, self._board = opener, board

    def place(self) -> str:
        """Where this process runs."""
        return f"{socket.gethostname()} (process {os.getpid()})"

    def open(self) -> bytes:
        """Open the engine; return its info and its codec."""
        try:
            self._engine = self._opener()
        except PosttrainError as error:
            return pickle.dumps(_Reply(error=error))
        return pickle.dumps(_Reply(result=(self._engine.info, self._engine.codec)))

    def call(self, number: int, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], tells: bool) -> bytes:
        """Call a method of the engine."""
        teller = _Teller(self._board, number)
        more = {"on_tokens": teller} if tells else {}
        try:
            result = getattr(self._engine, method)(*args, **kwargs, **more)
        except _Cancelled:
            return pickle.dumps(_Reply())
        except PosttrainError as error:
            return pickle.dumps(_Reply(error=error))
        return pickle.dumps(_Reply(result=result, told=tuple(teller.told)))


# --------------------------------------------------------------------------------------------------------------- in this process


@dataclass(kw_only=True, eq=False)
class _Job:
    """Calls that somebody waits for together."""

    news: deque[int] = field(default_factory=deque)
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
    """Numbers of on_tokens that were passed on. A call that is done again tells the same ones again."""

    def forward(self, start: int, told: Sequence[int]) -> None:
        """Pass on what is new of the numbers from the `start`-th on; what comes after a gap waits for the reply, which has all."""
        if start <= self.forwarded < start + len(told):
            self.job.news.extend(told[self.forwarded - start :])
            self.forwarded = start + len(told)


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
    line: deque[tuple[_Task, Any]] = field(default_factory=deque)
    """Calls handed to it, in the order in which it does them."""

    @property
    def is_open(self) -> bool:
        """Whether its engine is open."""
        return self.info is not None

    @property
    def awaited(self) -> Any:
        """What it will answer next; None where it is idle."""
        if not self.is_open:
            return self.opening or self.placing
        return self.line[0][1] if self.line else None


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
        board = ray.remote(_Board).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
        self._board = board.remote()
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if not num_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._actors = ray.remote(_Worker).options(
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
        """What the engines say of themselves."""
        if self._first is None or self._first.info is None:
            raise RuntimeError("this pool is closed")
        return self._first.info

    def run(self, calls: Sequence[Call], *, on_tokens: OnTokens = ignore_tokens) -> Iterator[tuple[int, Any]]:
        """Do the calls, the first ones first, and give (index, result) of each as it ends.

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
                    while job.news:
                        on_tokens(job.news.popleft())
                    if job.error is not None:
                        raise job.error
                self._hand_out()  # nobody idles while the caller looks at the result
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
        """Hand out work, wait a moment for one answer, take it, and read the board."""
        self._hand_out()
        awaited = {slot.awaited: slot for slot in self._slots if slot.awaited is not None}
        ready, _ = ray.wait(list(awaited), num_returns=1, timeout=_POLL_S)
        for ref in ready:
            self._receive(awaited[ref], ref)
        self._check_placing()
        if time.monotonic() - self._polled > _POLL_S:
            self._polled = time.monotonic()
            with contextlib.suppress(RayError):
                for number, start, told in ray.get(self._board.take.remote(), timeout=10 * _POLL_S):
                    if number in self._tasks:
                        self._tasks[number].forward(start, told)

    def _hand_out(self) -> None:
        """Give every open worker one call, and the next one beside it as long as more wait than there are workers."""
        for depth in (1, 2):
            for slot in self._slots:
                if self._queue and slot.is_open and len(slot.line) < depth:
                    if depth == 2 and len(self._queue) <= len(self._slots):
                        return
                    task = self._queue.popleft()
                    call = task.call
                    slot.line.append((task, slot.actor.call.remote(task.number, call.method, call.args, call.kwargs, call.tells)))

    def _receive(self, slot: _Slot, ref: Any) -> None:
        """Take a worker's answer, or its death."""
        try:
            answer = ray.get(ref)
        except RayTaskError as error:
            self._bury(slot, f"{type(error.cause).__name__}: {error.cause}")
            return
        except RayError as error:
            self._bury(slot, "the process ended" if "process" in str(error) else str(error))
            return
        if slot.is_open:
            self._finish(slot.line.popleft()[0], pickle.loads(answer))
        elif slot.opening is None:
            slot.where, slot.opening = answer, slot.actor.open.remote()
        else:
            self._welcome(slot, pickle.loads(answer))

    def _finish(self, task: _Task, reply: _Reply) -> None:
        self._tasks.pop(task.number, None)
        if reply.error is not None:
            task.job.error = reply.error
        elif not task.job.dropped:
            task.forward(0, reply.told)
            task.job.done.append((task.index, reply.result))

    def _welcome(self, slot: _Slot, reply: _Reply) -> None:
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
                f"on {self._first.where}; give every machine the same files, and use machines of one kind"
            )
        slot.info, self._failed_openings = info, 0

    def _bury(self, slot: _Slot, reason: str) -> None:
        """Put another worker in the place of one that died, and its calls back into the queue."""
        reason = " ".join(reason.split())[:200]
        line = [task for task, _ in slot.line]
        self._replace(slot)
        if not slot.is_open:
            self._failed_openings += 1
            if self._failed_openings >= _ATTEMPTS:
                self._failed_openings = 0
                raise WorkerError(
                    f"workers: {_ATTEMPTS} in a row ended while they opened the model (last: {reason}); is there memory for it on every machine?"
                )
        if line:  # it was doing the first one
            line[0].attempts += 1
            if line[0].attempts >= _ATTEMPTS:
                culprit = line.pop(0)
                culprit.job.error = WorkerError(
                    f"workers: {culprit.call.what} ended {culprit.attempts} of them (last: {reason}); is there memory for it? Use fewer workers "
                    "on a machine, or shorter samples"
                )
        self._queue.extendleft(task for task in reversed(line) if not task.job.dropped)

    def _replace(self, slot: _Slot) -> None:
        ray.kill(slot.actor)
        self._slots[self._slots.index(slot)] = self._new_slot()

    def _new_slot(self) -> _Slot:
        actor = self._actors.remote(self._opener, self._board)
        return _Slot(actor=actor, placing=actor.place.remote())

    def _check_placing(self) -> None:
        """Refuse to wait for ever where Ray finds no room for a worker; later on, one worker is enough."""
        late = [slot for slot in self._slots if slot.opening is None and time.monotonic() - slot.since > _PLACING_S]
        if late and (self._starting or not any(slot.is_open for slot in self._slots)):
            raise SettingsError(
                f"workers: got {len(self._slots)}, Ray found no room for {len(late)} of them within {_PLACING_S:.0f} s; wait for other jobs to "
                "end, or ask for fewer workers (`ray status` says what is taken)"
            )

    def _drop(self, job: _Job) -> None:
        """Forget the calls of a job, and tell the workers that do some of them."""
        job.dropped = True
        self._queue = deque(task for task in self._queue if task.job is not job)
        self._tasks = {number: task for number, task in self._tasks.items() if task.job is not job}
        running = [task.number for slot in self._slots for task, _ in slot.line if task.job is job]
        if running:
            self._board.cancel.remote(running)
