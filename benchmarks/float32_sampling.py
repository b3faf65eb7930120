"""How fast SmolLM2-135M samples in float32 on two cores, as on processors without bfloat16 units: alone, and beside another busy program.

    python benchmarks/float32_sampling.py

Live weights with functions of torch, against packed weights with the functions in C; threads that wait in a loop (the default of OpenMP), against
threads that sleep while they wait. Each measurement is a process of its own, and the settings alternate; medians of
`--repeats`. Writes reports/benchmarks/float32_sampling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from hardware import describe_processor

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "benchmarks" / "float32_sampling.md"
NUM_TOKENS, NUM_PROMPTS = 32, 8
SAMPLES = (1, 12)
WEIGHTS = {"live": "live weights, torch", "packed": "packed weights, C"}
POLICIES = {"active": "wait in a loop", "passive": "sleep"}


def measure(weights: str, num_samples: int) -> float:
    """Return tokens per second: 8 prompts of about 120 tokens with some samples each, 32 tokens long."""
    import torch

    from posttrain.diagnose.engines.base import SampleRequest
    from posttrain.diagnose.engines.hf.sampling_loop import SamplingLoop
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
    from posttrain.diagnose.engines.llama.layers import LlamaLayers
    from posttrain.diagnose.engines.llama.open_decoder import open_decoder
    from posttrain.diagnose.types import Sampling

    engine = TransformersEngine.open("demo", sample_dtype="float32")
    layers = LlamaLayers(engine.model, torch.float32, packed=weights == "packed")
    engine.codec.eos_ids = frozenset()
    requests = [
        SampleRequest(key=f"p{i}", prompt_ids=tuple(range(100 + i, 220 + i)), num_samples=num_samples) for i in range(NUM_PROMPTS)
    ]
    when: list[float] = []

    def note_time(_: int) -> None:
        when.append(time.perf_counter())

    for num_tokens in (2, NUM_TOKENS):  # the first time warms up
        when.clear()
        decoder = open_decoder(layers, max_tokens=num_tokens)
        with torch.no_grad():
            SamplingLoop(decoder, engine.codec, engine.device, layers.kernels.pick_tokens).run(
                requests, Sampling(max_tokens=num_tokens), seed="0", on_tokens=note_time
            )
    return (len(when) - 1) * NUM_PROMPTS * num_samples / (when[-1] - when[0])


def run_cell(weights: str, policy: str, num_samples: int) -> float:
    """Measure in a process of its own."""
    child = [sys.executable, __file__, "--child", weights, "--samples", str(num_samples)]
    done = subprocess.run(
        child, env={**os.environ, "OMP_WAIT_POLICY": policy}, check=True, capture_output=True, text=True, timeout=600
    )
    return float(json.loads(done.stdout))


def table(rows: list[tuple[str, str, int, bool, list[float]]]) -> str:
    """Format the cells."""
    lines = [
        "| what else runs | samples at a time | weights | threads that wait | tokens/s |",
        "| --- | ---: | --- | --- | ---: |",
    ]
    for weights, policy, num, is_busy, speeds in rows:
        other = "a program that keeps a core busy" if is_busy else "nothing"
        spread = f"{statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})"
        lines.append(f"| {other} | {NUM_PROMPTS * num} | {WEIGHTS[weights]} | {POLICIES[policy]} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every cell and write the report, or measure one as a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=list(WEIGHTS), help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.samples)))
        return
    cells = [(*cell, is_busy) for is_busy in (False, True) for num in SAMPLES for cell in _settings(num)]
    found: dict[tuple[str, str, int, bool], list[float]] = {cell: [] for cell in cells}
    for repeat in range(options.repeats):
        for weights, policy, num, is_busy in cells:
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_busy else None
            try:
                found[weights, policy, num, is_busy].append(run_cell(weights, policy, num))
            finally:
                if busy is not None:
                    busy.kill()
            print(f"{repeat + 1}/{options.repeats}: {weights}, {policy}, {num}, busy: {is_busy}", file=sys.stderr)
    head = f"""# Sampling in float32

    python benchmarks/float32_sampling.py

{describe_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}. SmolLM2-135M-Instruct, prompts of 120 tokens, {NUM_TOKENS} new tokens; medians of {options.repeats}, in brackets the lowest and the highest.

"""
    REPORT.write_text(head + table([(*cell, speeds) for cell, speeds in found.items()]) + "\n", encoding="utf-8")


def _settings(num_samples: int) -> list[tuple[str, str, int]]:
    return [
        (weights, policy, num_samples) for weights, policy in (("live", "active"), ("packed", "active"), ("packed", "passive"))
    ]


if __name__ == "__main__":
    main()
