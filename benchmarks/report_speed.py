"""Time and memory of a report on one million rollouts of 5,000 problems, compared with a plain loop over rows.

    python benchmarks/report_speed.py

The runs are synthetic (half a gigabyte each, in a temporary folder), written in the shards that `posttrain diagnose` would write. Every
time is that of a fresh process, imports included, on two cores. Writes reports/benchmarks/report_speed.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from hardware import describe_processor, memory_gib

REPORT = Path(__file__).parents[1] / "reports" / "benchmarks" / "report_speed.md"
BOOTSTRAPS = 2000
PRIMARY_K = 16
CORES = 2


# --------------------------------------------------------------------------------------------------------- the synthetic run


def build(folder: Path, num_problems: int, num_samples: npt.NDArray[np.int64]) -> Path:
    """Write finished sampling: [num_problems] samples each, of about 30 tokens, a quarter of the problems never solved."""
    from posttrain.diagnose.behaviors import load_behavior
    from posttrain.diagnose.sampling import shards
    from posttrain.diagnose.storage.diagnosis_json import ValidityEntry
    from posttrain.diagnose.storage.run_directory import RunDirectory
    from posttrain.diagnose.thresholds import Thresholds
    from posttrain.diagnose.types import Split, ValidityMeasurement

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    problems = [
        {
            "id": f"p{i:05d}",
            "prompt": f"{i} + {i + 1} =",
            "answer": f"{2 * i + 1}",
            "references": [[f"{i} + {i + 1}", f"= {2 * i + 1}"]],
        }
        for i in range(num_problems)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    source = folder / "sums.yaml"
    source.write_text(
        f"problems: rows.jsonl\nverifier: {{kind: number}}\nsampling: {{max_tokens: 40}}\nmeasure: {{primary_k: {PRIMARY_K}}}\n"
        "split: {train: 0.0, final: 0.0}\n"
    )
    behavior = load_behavior(source)
    directory = RunDirectory(folder / "run")
    directory.open(
        "diagnose",
        {
            "behaviors": {behavior.name: behavior.fingerprint}, "samples": int(num_samples.max()), "seed": 0, "split": "eval",
            "thresholds": asdict(Thresholds()),
        },
        {"model": {"source": "synthetic"}, "versions": {}, "sources": {behavior.name: str(source)}, "command": "", "created": "2026-01-01"},
    )  # fmt: skip
    rates = np.where(rng.random(num_problems) < 0.25, 0.0, rng.beta(0.5, 1.2, num_problems))
    place = {str(problem["id"]): i for i, problem in enumerate(problems)}
    sampled = shards.plan_round(behavior, Split.EVAL, np.zeros_like(num_samples), num_samples, 0)
    for shard in [*shards.plan_greedy(behavior, Split.EVAL), *sampled]:
        who = np.array([place[portion.problem.id] for portion in shard.portions])
        each = np.array([portion.num for portion in shard.portions])
        ids = [portion.problem.id for portion in shard.portions]
        write_shard(directory, shard.name, behavior.name, ids, each, rates[who], shard.decoding, rng)
    write_paths(directory, behavior.name, list(place), rng)
    validity = ValidityMeasurement(behavior=behavior.name, checks=(), notes=(), failures=(), prompt_example="0 + 1 =")
    directory.write_part("validity", behavior.name, ValidityEntry.model_validate(validity).to_json())
    directory.write_done(behavior.name, {})
    return directory.path


def write_shard(
    directory: Any, name: str, behavior: str, ids: Sequence[str], each: npt.NDArray[np.int64], rates: npt.NDArray[np.float64],
    decoding: str, rng: np.random.Generator,
) -> None:  # fmt: skip
    """One shard: 2 % unparsed, 1 in 1,000 missing, one in twenty truncated."""
    from posttrain.diagnose.storage.rollout_table import SCHEMA
    from posttrain.diagnose.types import Cost

    total = int(each.sum())
    lengths = rng.integers(20, 41, total).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(offsets, rng.integers(0, 32000, offsets[-1]).astype(np.int32))
    logprobs = -rng.exponential(0.5, offsets[-1]).astype(np.float32)
    luck = rng.random(total)
    status = np.where(luck < 0.02, "unparsed", np.where(luck < 0.021, "error", "scored"))
    score = np.where(status == "unparsed", 0.0, rng.random(total) < np.repeat(rates, each)).astype(np.float64)
    columns = {
        "behavior": [behavior] * total,
        "problem_id": np.repeat(ids, each),
        "split": ["eval"] * total,
        "sample_index": np.concatenate([np.arange(n) for n in each]),
        "decoding": [decoding] * total,
        "token_ids": tokens,
        "policy_logprobs": pa.ListArray.from_arrays(offsets, logprobs),
        "sampler_logprobs": pa.ListArray.from_arrays(offsets, logprobs),
        "stop": np.where(lengths == 40, "length", "eos"),
        "text": [f"the sum is {n}, since one number follows the other" for n in rng.integers(0, 10_000, total)],
        "status": status,
        "score": pa.array(score, mask=status == "error"),
        "extracted": np.where(score > 0, "right", "wrong"),
        "lenient_score": pa.array(score, mask=status == "error"),
        "detail": [""] * total,
        "engine": ["0123456789abcdef"] * total,
        "num_tokens": lengths,
        "policy_logprob_sum": np.add.reduceat(logprobs.astype(np.float64), offsets[:-1]),
    }
    cost = Cost(seconds=1.0, generated_tokens=int(offsets[-1]), samples=total)
    directory.write_shard("rollouts", name, pa.table(columns, schema=SCHEMA), cost)


def write_paths(directory: Any, behavior: str, ids: Sequence[str], rng: np.random.Generator) -> None:
    """Write a reference path of twelve tokens in two steps for every problem."""
    from posttrain.diagnose.types import Cost, PathScore, Split

    steps = np.repeat(np.arange(2, dtype=np.int32), 6)
    paths = [
        PathScore(
            behavior=behavior, problem_id=i, split=Split.EVAL, reference_index=0, token_ids=tuple(range(12)), token_texts=tuple("0 + 1 = 1 so."),
            token_steps=np.append(steps, np.int32(1)), policy_logprobs=-rng.exponential(0.7, 13).astype(np.float32),
            ranks=np.zeros(13, dtype=np.int32), engine="e",
        )
        for i in ids
    ]  # fmt: skip
    directory.write_paths(f"{behavior}.eval.00000", paths, Cost(seconds=1.0, scored_tokens=13 * len(paths)))


# ------------------------------------------------------------------------------------------------------------ what is timed


def report(run: Path) -> dict[str, float]:
    """Do what `posttrain report RUN` does."""
    from posttrain.diagnose import assemble
    from posttrain.diagnose.pipeline.run_files import write_run

    started = time.time()
    finished = assemble(run)
    write_run(finished)
    diagnosis = finished.diagnoses[0]
    written = [(run / name).stat().st_mtime for name in ("diagnosis.json", "report.html")]
    estimates = {f"pass@{p.k}": p.value.estimate for p in diagnosis.pass_at_k}
    return {
        "imported": started,
        "numbers": written[0],
        "page": written[1],
        **{k: estimates[k] for k in ("pass@1", f"pass@{PRIMARY_K}")},
    }


def naive(run: Path) -> dict[str, float]:
    """Compute pass@1 and one pass@k with bootstrap intervals in plain Python loops over rows: no posterior, no page."""
    outcomes: dict[str, list[bool]] = {}
    started = time.time()
    for path in sorted((run / "rollouts").glob("*.parquet")):
        for row in pq.read_table(path, columns=["problem_id", "decoding", "stop", "status", "score"]).to_pylist():
            if row["decoding"] == "sampled" and row["status"] not in ("error", "timeout"):
                success = row["score"] >= 1.0 and row["stop"] != "length"
                outcomes.setdefault(row["problem_id"], []).append(success)
    found = {}
    generator = random.Random(0)
    for k in (1, PRIMARY_K):
        values = [1 - math.comb(len(o) - sum(o), k) / math.comb(len(o), k) for o in outcomes.values()]
        found[f"pass@{k}"] = statistics.fmean(values)
        means = sorted(sum(generator.choices(values, k=len(values))) / len(values) for _ in range(BOOTSTRAPS))
        found[f"low@{k}"], found[f"high@{k}"] = means[int(0.025 * BOOTSTRAPS)], means[int(0.975 * BOOTSTRAPS)]
    return {"imported": started, "numbers": time.time(), **found}


def child(what: str, run: Path) -> None:
    """Run one of the two in this process and print what it gave, with its processor time and its peak memory in bytes."""
    result = report(run) if what == "report" else naive(run)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({**result, "processor": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}))


def measure(what: str, run: Path, repeats: int) -> dict[str, float]:
    """Medians over fresh processes; times in seconds since the process was started."""
    runs = []
    for _ in range(repeats):
        started = time.time()
        words = [sys.executable, __file__, "--child", what, "--run", str(run)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        runs.append({key: value - started if key in ("imported", "numbers", "page") else value for key, value in result.items()})
        print(f"{what}: {runs[-1]}", file=sys.stderr)
    return {key: statistics.median(one[key] for one in runs) for key in runs[0]}


# ----------------------------------------------------------------------------------------------------------------- the table


def hardware() -> str:
    """One line: processor, cores used, memory, Python."""
    return f"{describe_processor()}, {len(os.sched_getaffinity(0))} cores used of {os.cpu_count()}, {memory_gib():.0f} GiB of memory, Python {platform.python_version()}"


def main() -> None:
    """Build, time, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=200, help="samples per problem")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes per number; the median is reported")
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--child", choices=("report", "naive"), help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if options.child:
        child(options.child, options.run)
        return

    equal = np.full(options.problems, options.samples)
    spread = options.samples // 2
    unequal = np.random.default_rng(1).integers(options.samples - spread, options.samples + spread + 1, options.problems)
    rows, loop = [], {}
    for name, counts in (("equal", equal), ("unequal", unequal)):
        with tempfile.TemporaryDirectory() as folder:
            run = build(Path(folder) / "sums", options.problems, counts)
            size = sum(path.stat().st_size for path in run.rglob("*.parquet")) / 1e6
            num_shards = len(list((run / "rollouts").iterdir()))
            found = measure("report", run, options.repeats)
            if name == "equal":
                loop = measure("naive", run, 1)
                for k in (1, PRIMARY_K):
                    assert abs(loop[f"pass@{k}"] - found[f"pass@{k}"]) < 1e-9, (k, loop, found)
        different = len(set(counts.tolist()))
        what = f"{int(counts.sum()):,} rollouts of {options.problems:,} problems, " + (
            f"{options.samples} each"
            if different == 1
            else f"{counts.min()} to {counts.max()} each ({different} different numbers)"
        )
        rows.append((what, f"{num_shards:,} files, {size:.0f} MB", found))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(table(rows, loop, options.repeats))
    print(options.out.read_text())


def table(rows: list[tuple[str, str, dict[str, float]]], loop: dict[str, float], repeats: int) -> str:
    """Write the Markdown page."""
    lines = [
        "# From rollouts to a report",
        "",
        f"    {shlex.join(['python', *([] if not sys.argv else [os.path.relpath(sys.argv[0])]), *sys.argv[1:]])}",
        "",
        f"{hardware()}. Seconds since the process was started, imports included; medians of {repeats} fresh processes (one of the loop).",
        "",
        "| what | parquet | imports | all numbers (diagnosis.json) | and the page with its figures | processor time | peak memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {what} | {files} | {found['imported']:.1f} s | {found['numbers']:.1f} s | {found['page']:.1f} s | {found['processor']:.1f} s | {found['peak'] / 1e6:.0f} MB |"
        for what, files, found in rows
    ]
    what, files, _ = rows[0]
    lines.append(
        f"| the same {what}: a plain loop over rows | {files} | {loop['imported']:.1f} s | {loop['numbers']:.1f} s | no page | {loop['processor']:.1f} s | {loop['peak'] / 1e6:.0f} MB |"
    )
    explanation = (
        "All numbers are: counts per problem, pass@k with intervals over problems, the fitted distribution of success rates (256 bootstrap draws "
        "of the distribution, each with the labels of all problems; twice more for the bounds on missing samples), intervals over all distributions where "
        "pass@k is extrapolated, the label of every problem, and the likelihood of its reference. The loop reads five columns, makes a list per "
        f"problem, and gives pass@1 and pass@{PRIMARY_K} with a bootstrap of {BOOTSTRAPS:,} draws over problems, nothing else; its two "
        "estimates equal the report's."
    )
    lines += [
        "",
        explanation,
        "",
        "| | estimate | interval of the loop's bootstrap |",
        "| --- | ---: | ---: |",
        *(f"| pass@{k} | {loop[f'pass@{k}']:.4f} | {loop[f'low@{k}']:.4f} to {loop[f'high@{k}']:.4f} |" for k in (1, PRIMARY_K)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
