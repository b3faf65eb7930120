"""How much faster two workers sample than one, on one core each; the completions must be the same bit for bit.

    python benchmarks/pool.py

Both pools are open at the same time and alternate, so that other load on the machine affects both. Opening is not timed. Beside wall-clock
time stands the processor time of the busiest worker: the two differ where other programs use the same cores. Writes
reports/benchmarks/pool.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from hardware import describe_processor, memory_gib

if TYPE_CHECKING:
    from posttrain.diagnose.engines.base import SampleRequest
    from posttrain.diagnose.engines.ray.pool_engine import PoolEngine

REPORT = Path(__file__).parents[1] / "reports" / "benchmarks" / "pool.md"
GOAL = 1.8


def hardware() -> str:
    """Describe processor, cores, memory and Python in one line."""
    return f"{describe_processor()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB of memory, Python {platform.python_version()}"


def worker_processes() -> list[psutil.Process]:
    """Return the worker processes that this one has started."""
    return [
        child for child in psutil.Process().children(recursive=True) if child.cmdline()[:1] and "_Worker" in child.cmdline()[0]
    ]


def processor_seconds(processes: list[psutil.Process]) -> list[float]:
    """Return user plus system time of each process so far."""
    return [times.user + times.system for times in (process.cpu_times() for process in processes)]


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--behavior", default="sums")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16, help="samples per problem")
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--piece", type=int, default=128, help="samples per piece of work")
    parser.add_argument("--repeats", type=int, default=3, help="the median is reported")
    parser.add_argument("--out", type=Path, default=REPORT)
    return parser.parse_args()


def main() -> None:
    """Sample with one worker and with two, alternately, and write the table."""
    from posttrain.diagnose.behaviors import load_behavior
    from posttrain.diagnose.engines.base import SampleRequest
    from posttrain.diagnose.engines.ray.open_cluster import open_pool
    from posttrain.diagnose.engines.ray.pieces import PieceSize, cut_samples

    options = parse_options()
    behavior, size = load_behavior(options.behavior), PieceSize(samples=options.piece)
    pools, processes, known = {}, {}, set()
    for workers in (1, 2):
        pools[workers] = open_pool("transformers", options.model, [behavior], workers=workers, cpus_per_worker=1, size=size)
        processes[workers] = [process for process in worker_processes() if process.pid not in known]
        known |= {process.pid for process in processes[workers]}
        assert len(processes[workers]) == workers, worker_processes()
    requests = [
        SampleRequest(
            key=problem.id,
            prompt_ids=pools[1].codec.encode_prompt(problem.prompt, behavior.prompt).token_ids,
            num_samples=options.samples,
        )
        for problem in behavior.problems[: options.problems]
    ]
    speeds, busiest = measure(pools, processes, requests, options)
    info = pools[1].info
    for pool in pools.values():
        pool.close()
    pieces = len(cut_samples(requests, size, options.max_tokens))
    setup = (
        f"{hardware()}; Ray {info.versions['ray']}, torch {info.versions['torch']}. {options.model} in {info.sample_dtype}, one core per worker. "
        f"{len(requests)} prompts of {options.behavior} × {options.samples} samples of at most {options.max_tokens} tokens, in {pieces} pieces. "
        f"Medians of {options.repeats}; the two pools alternate. The completions and their log-probabilities are the same bit for bit."
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(setup, speeds, busiest))
    print(options.out.read_text())


def measure(
    pools: dict[int, PoolEngine],
    processes: dict[int, list[psutil.Process]],
    requests: list[SampleRequest],
    options: argparse.Namespace,
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Sample with both pools alternately, after one repetition to warm up, and check that they agree.

    Returns:
        Tokens per second, and processor seconds of the busiest worker, of every repetition, by number of workers.
    """
    from posttrain.diagnose.types import Sampling

    speeds: dict[int, list[float]] = {1: [], 2: []}
    busiest: dict[int, list[float]] = {1: [], 2: []}
    sampled = {}
    for repetition in range(options.repeats + 1):
        for workers, pool in pools.items():
            chosen = requests if repetition else requests[: 2 * options.piece // options.samples]
            start, used = time.monotonic(), processor_seconds(processes[workers])
            sampled[workers] = pool.sample(chosen, Sampling(max_tokens=options.max_tokens), seed="benchmark")
            seconds = time.monotonic() - start
            tokens = sum(len(completion.token_ids) for row in sampled[workers] for completion in row)
            print(
                f"{workers} workers: {tokens} tokens in {seconds:.1f} s{'' if repetition else ' (to warm up)'}", file=sys.stderr
            )
            if repetition:
                speeds[workers].append(tokens / seconds)
                after = processor_seconds(processes[workers])
                busiest[workers].append(max(b - a for a, b in zip(used, after, strict=True)))
        one, two = ([(c.token_ids, c.policy_logprobs.tobytes(), c.text) for row in sampled[w] for c in row] for w in (1, 2))
        assert one == two, "two workers sampled something else than one"
    return speeds, busiest


def page(setup: str, speeds: dict[int, list[float]], busiest: dict[int, list[float]]) -> str:
    """Write the Markdown page."""
    one, two = (statistics.median(speeds[workers]) for workers in (1, 2))
    ideal = statistics.median(busiest[1]) / statistics.median(busiest[2])
    summary = (
        f"By wall-clock time two workers are {two / one:.2f} times as fast as one (goal: {GOAL}): {'met' if two / one >= GOAL else 'not met'}. "
        f"By the processor time of the busiest worker, which equals wall-clock time where each worker has a core to itself, {ideal:.2f} times. "
        f"Load of the machine during the run: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."
    )
    lines = [
        "# Two workers against one",
        "",
        f"    {shlex.join(['python', os.path.relpath(sys.argv[0]), *sys.argv[1:]])}",
        "",
        setup,
        "",
        "| workers | tokens/s | each repetition | processor time of the busiest worker |",
        "| ---: | ---: | --- | ---: |",
        *(
            f"| {workers} | {statistics.median(found):.1f} | {', '.join(f'{speed:.1f}' for speed in found)} | {statistics.median(busiest[workers]):.1f} s |"
            for workers, found in speeds.items()
        ),
        "",
        summary,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
