"""Many engines as one: work goes out in pieces to engines in Ray actors.

The pieces depend on the requests alone, and each is done under the same names of random generators by engines of one fingerprint, so the
result depends neither on the number of workers nor on which of them did what, nor on how often a piece had to be done. What does change
last bits is what changes them for one engine: another number of threads, and another kind of machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import ray

from posttrain.diagnose.engines import base
from posttrain.diagnose.engines.base import Completion, OnTokens, SampleRequest, ScoreRequest, TokenScores, ignore_tokens
from posttrain.diagnose.engines.ray.pieces import Piece, PieceSize, cut_samples, cut_scores
from posttrain.diagnose.engines.ray.worker_process import Call
from posttrain.diagnose.engines.ray.worker_queue import WorkerQueue
from posttrain.diagnose.types import Sampling


class PoolEngine(base.BaseEngine):
    """An engine that hands its work to engines in other processes; a context manager. One thread may use it at a time."""

    def __init__(
        self,
        opener: Callable[[], base.Engine],
        *,
        workers: int,
        threads: int = 1,
        num_cpus: float = 0.0,
        num_gpus: float = 0.0,
        name: str | None = None,
        size: PieceSize | None = None,
    ):
        """Open an engine in every worker; Ray is running already. `cluster.open_pool` is the usual way.

        Args:
            opener: Opens an engine; it is pickled and sent to every worker.
            workers: How many engines.
            threads: Threads of each.
            num_cpus: Processors that Ray sets aside for each; none where nothing else uses this Ray.
            num_gpus: GPUs of each.
            name: What people call the model.
            size: What a piece of work holds at most.

        Raises:
            PosttrainError: What opening an engine raised, or why no worker stayed alive.
        """
        self._size = size or PieceSize()
        self._queue = WorkerQueue(opener, workers=workers, threads=threads, num_cpus=num_cpus, num_gpus=num_gpus)
        info = self._queue.info
        self.info = replace(info, model=name or info.model, versions={**info.versions, "ray": ray.__version__})
        self.codec = self._queue.codec

    def close(self) -> None:
        """End the workers; their memory and GPUs are free again."""
        self._queue.close()

    def check_sampling(self, sampling: Sampling) -> None:
        """See `Engine`; one worker answers for all."""
        list(self._queue.run([Call(method="check_sampling", args=(sampling,), what="looking at sampling settings")]))

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, seed: str, on_tokens: OnTokens = ignore_tokens
    ) -> list[list[Completion]]:
        """Sample; see `Sampler`.

        Raises:
            WorkerError: A piece of the work ended three workers.
        """
        return next(completions for _, completions in self.sample_batches([requests], sampling, seed=seed, on_tokens=on_tokens))

    def sample_batches(
        self,
        batches: Sequence[Sequence[SampleRequest]],
        sampling: Sampling,
        *,
        seed: str,
        on_tokens: OnTokens = ignore_tokens,
    ) -> Iterator[tuple[int, list[list[Completion]]]]:
        """Sample several lists of requests at a time; yield (index, what `sample` returns for it) of each as it is done.

        Workers go on while the caller looks at a result. What the caller does not wait for is cancelled.

        Raises:
            WorkerError: A piece of the work ended three workers.
        """
        cut = [cut_samples(requests, self._size, sampling.max_tokens) for requests in batches]
        for index, pieces in enumerate(cut):
            if not pieces:
                yield index, [[] for _ in batches[index]]
        # The largest piece of a batch first: then the last ones to end are small.
        work = [
            (index, number)
            for index, pieces in enumerate(cut)
            for number in sorted(range(len(pieces)), key=lambda n: -pieces[n].cost)
        ]
        calls = [
            Call(method="sample", args=(piece.requests, sampling), kwargs={"seed": seed}, what=_describe(piece))
            for piece in (cut[index][number] for index, number in work)
        ]
        left = [len(pieces) for pieces in cut]
        sampled: dict[tuple[int, int], list[list[Completion]]] = {}
        for done, completions in self._queue.run(calls, on_tokens=on_tokens):
            index = work[done][0]
            sampled[work[done]] = completions
            left[index] -= 1
            if not left[index]:
                rows: list[list[Completion]] = [[] for _ in batches[index]]
                for number, piece in enumerate(cut[index]):
                    for owner, row in zip(piece.owners, sampled.pop((index, number)), strict=True):
                        rows[owner] += row
                yield index, rows

    def score(self, requests: Sequence[ScoreRequest], *, on_tokens: OnTokens = ignore_tokens) -> list[TokenScores]:
        """See `Engine`.

        Raises:
            WorkerError: A piece of the work ended three workers.
        """
        pieces = sorted(cut_scores(requests, self._size), key=lambda piece: -piece.cost)
        calls = [Call(method="score", args=(piece.requests,), what=f"scoring {len(piece.requests)} paths") for piece in pieces]
        scored: dict[int, TokenScores] = {}
        for done, scores in self._queue.run(calls, on_tokens=on_tokens):
            scored.update(zip(pieces[done].owners, scores, strict=True))
        return [scored[r] for r in range(len(requests))]


def _describe(piece: Piece[SampleRequest]) -> str:
    first, more = piece.requests[0], len(piece.requests) - 1
    what = f"samples {first.first_sample} to {first.first_sample + first.num_samples - 1} of {first.key}"
    return f"sampling ({what}" + (f", and {more} more prompts)" if more else ")")
