"""How much faster two workers sample than one, on one core each; the completions must be the same bit for bit.

    python benchmarks/pool.py

Both pools are open at the same time and take turns, so that whatever else the machine does meets both. Opening is not timed. Beside the
time on the clock stands the processor time of the busiest worker: the two differ where other programs want the same cores. Writes
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

import psutil

REPORT = Path(__file__).parents[1] / "reports" / "benchmarks" / "pool.md"
GOAL = 1.8


def hardware() -> str:
    """One line: processor, cores, memory, Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, Python {platform.python_version()}"


def workers_here() -> list[psutil.Process]:
    """The processes of workers that this one has started."""
    return [
        child for child in psutil.Process().children(recursive=True) if child.cmdline()[:1] and "_Worker" in child.cmdline()[0]
    ]


def processor_seconds(processes: list[psutil.Process]) -> list[float]:
    """User and system time of each so far."""
    return [times.user + times.system for times in (process.cpu_times() for process in processes)]


def main() -> None:
    """Sample with one worker and with two, in turn, and write the table."""
    from posttrain.diagnose.behaviors import load_behavior
    from posttrain.diagnose.engines.base import SampleRequest
    from posttrain.diagnose.engines.ray.open_cluster import open_pool
    from posttrain.diagnose.engines.ray.pieces import PieceSize, cut_samples
    from posttrain.diagnose.types import Sampling

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--behavior", default="sums")
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--samples", type=int, default=16, help="samples per problem")
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--piece", type=int, default=128, help="samples per piece of work")
    parser.add_argument("--repeats", type=int, default=3, help="the median is reported")
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args()

    behavior, size, sampling = (
        load_behavior(options.behavior),
        PieceSize(samples=options.piece),
        Sampling(max_tokens=options.max_tokens),
    )
    pools, processes, known = {}, {}, set()
    for workers in (1, 2):
        pools[workers] = open_pool("transformers", options.model, [behavior], workers=workers, cpus_per_worker=1, size=size)
        processes[workers] = [process for process in workers_here() if process.pid not in known]
        known |= {process.pid for process in processes[workers]}
        assert len(processes[workers]) == workers, workers_here()
    requests = [
        SampleRequest(
            key=problem.id,
            prompt_ids=pools[1].codec.encode_prompt(problem.prompt, behavior.prompt).token_ids,
            num_samples=options.samples,
        )
        for problem in behavior.problems[: options.problems]
    ]
    speeds: dict[int, list[float]] = {1: [], 2: []}
    busiest: dict[int, list[float]] = {1: [], 2: []}
    drawn = {}
    for turn in range(options.repeats + 1):
        for workers, pool in pools.items():
            asked = requests if turn else requests[: 2 * options.piece // options.samples]
            start, used = time.monotonic(), processor_seconds(processes[workers])
            drawn[workers] = pool.sample(asked, sampling, seed="benchmark")
            seconds = time.monotonic() - start
            tokens = sum(len(completion.token_ids) for row in drawn[workers] for completion in row)
            print(f"{workers} workers: {tokens} tokens in {seconds:.1f} s{'' if turn else ' (to warm up)'}", file=sys.stderr)
            if turn:
                speeds[workers].append(tokens / seconds)
                after = processor_seconds(processes[workers])
                busiest[workers].append(max(b - a for a, b in zip(used, after, strict=True)))
        ours, theirs = ([(c.token_ids, c.policy_logprobs.tobytes(), c.text) for row in drawn[w] for c in row] for w in (1, 2))
        assert ours == theirs, "two workers drew something else than one"
    info = pools[1].info
    for pool in pools.values():
        pool.close()

    one, two = (statistics.median(speeds[workers]) for workers in (1, 2))
    ideal = statistics.median(busiest[1]) / statistics.median(busiest[2])
    pieces = len(cut_samples(requests, size, options.max_tokens))
    how = (
        f"{hardware()}; Ray {info.versions['ray']}, torch {info.versions['torch']}. {options.model} in {info.sample_dtype}, one core per worker. "
        f"{len(requests)} prompts of {options.behavior} × {options.samples} samples of at most {options.max_tokens} tokens, in {pieces} pieces. "
        f"Medians of {options.repeats}; the two take turns. The completions and their log-probabilities are the same bit for bit."
    )
    said = (
        f"By the clock two workers are {two / one:.2f} times as fast as one (goal: {GOAL}): {'met' if two / one >= GOAL else 'not met'}. "
        f"By the processor time of the busiest worker, which is what the clock shows where each worker has its core to itself, {ideal:.2f} times. "
        f"Load of the machine while this ran: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores."
    )
    lines = [
        "# Two workers against one",
        "",
        f"    {shlex.join(['python', os.path.relpath(sys.argv[0]), *sys.argv[1:]])}",
        "",
        how,
        "",
        "| workers | tokens/s | each time | processor time of the busiest worker |",
        "| ---: | ---: | --- | ---: |",
        *(
            f"| {workers} | {statistics.median(found):.1f} | {', '.join(f'{speed:.1f}' for speed in found)} | {statistics.median(busiest[workers]):.1f} s |"
            for workers, found in speeds.items()
        ),
        "",
        said,
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
