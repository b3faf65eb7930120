"""Coverage of intervals and errors of verdicts over a grid of distributions, problems and samples.

    python benchmarks/coverage.py --out reports/benchmarks/coverage.md

Every cell draws behaviors from a distribution, samples them (a fixed number per problem, or in adaptive rounds that stop on their own or at 64
samples per problem on average) and compares what the library says with the truth.
Cells are cached in `--cache`, so that a stopped run can be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from distributions import DISTRIBUTIONS, EPSILON, MASTERED, Array, true_label, true_problem_labels
from numpy.typing import NDArray

from posttrain.analysis.stats import mean_interval, paired_delta_interval, pass_at_k, posterior_deltas
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior, problem_labels
from posttrain.diagnose.sampling.plan import Goal, SampleCounts, next_round
from posttrain.diagnose.thresholds import Thresholds

SHOWN = ("skewed", "impossible", "thresholds")
PROBLEMS = (10, 50, 500)
SAMPLES = ("4", "32", "256", "adaptive")
"""Samples of every problem; or adaptive rounds until the label is decided."""
CAP = 64
PRIMARY_K = 16
THRESHOLDS = Thresholds()
Ints = NDArray[np.int64]


def raised(rates: Array) -> Array:
    """Return the rates after a stage that moves every other problem between 0.002 and 0.8 half of the way to one."""
    after = rates.copy()
    helped = (rates > 0.002) & (rates < 0.8)
    helped[::2] = False
    after[helped] += (1.0 - after[helped]) / 2
    return after


def adaptive(rng: np.random.Generator, rates: Array, seed: int) -> tuple[Ints, Ints, LabelPosterior]:
    """Sample until the label is decided or CAP samples per problem are used."""
    n, c = np.zeros(rates.size, dtype=np.int64), np.zeros(rates.size, dtype=np.int64)
    goal = Goal(max_tokens=CAP * rates.size)
    while True:
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()))
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=PRIMARY_K, max_tokens=1, thresholds=THRESHOLDS, seed=seed)
        if plan.last:
            return n, c, label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=seed)
        n = n + plan.extra
        c = c + rng.binomial(plan.extra, rates)


def replicate(task: tuple[str, int, str, int, dict[int, float], dict[int, float]]) -> dict[str, float]:
    distribution, num_problems, how, seed, truth, delta_truth = task
    samples = int(how) if how.isdecimal() else None
    rng = np.random.default_rng([seed, num_problems, samples or 0, sorted(DISTRIBUTIONS).index(distribution)])
    rates = DISTRIBUTIONS[distribution].draw(rng, num_problems)
    if samples is None:
        n, c, known = adaptive(rng, rates, seed)
    else:
        n = np.full(num_problems, samples)
        c = rng.binomial(n, rates)
        known = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=seed)
    found: dict[str, float] = {"samples": float(n.mean())}

    def note(name: str, low: float, high: float, true: float) -> None:
        found[f"{name} covers"] = float(low - 1e-9 <= true <= high + 1e-9)
        found[f"{name} width"] = high - low

    ks = sorted(truth)
    names = dict(zip(ks, ("pass@1", "pass@n", "pass@4n", "pass@32n"), strict=True))
    counted = [k for k in ks if samples is not None and k <= samples]
    for k in counted:
        plain = mean_interval(pass_at_k(n, c, k))
        note(names[k], plain.low, plain.high, truth[k])
    rest = [k for k in ks if k not in counted]
    for k, interval in zip(rest, known.mixture.pass_at_ks(rest), strict=True):
        note(names[k], interval.low, interval.high, truth[k])
        found[f"{names[k]} identified"] = float(not np.isnan(interval.estimate))
    second = raised(rates)
    for k in ks[:2]:
        if samples is None:
            _, _, later = adaptive(rng, second, seed)
            delta = posterior_deltas(known.mixture, later.mixture, [k]).intervals()[0]
        else:
            c2 = rng.binomial(n, second)
            delta = paired_delta_interval(pass_at_k(n, c, k), pass_at_k(n, c2, k))
        note(f"delta {'pass@1' if k == 1 else 'pass@n'}", delta.low, delta.high, delta_truth[k])
        if samples is None:
            break
    definite = known.confidence >= THRESHOLDS.confidence
    found |= {"label decided": float(definite), "label wrong": float(definite and known.label is not true_label(rates))}
    named = problem_labels(known.mixture.interval_probabilities([EPSILON, MASTERED], strict=True), THRESHOLDS)
    found |= {
        "states decided": float((named >= 0).mean()),
        "states wrong": float(((named >= 0) & (named != true_problem_labels(rates))).mean()),
    }
    return found


def cell(distribution: str, num_problems: int, samples: str, replicates: int, pool: Pool) -> dict[str, float]:
    n = int(samples) if samples.isdecimal() else PRIMARY_K
    population = DISTRIBUTIONS[distribution].draw(np.random.default_rng(0), 400_000)
    ks = [1, n, 4 * n, 32 * n]
    truth = {k: float(np.mean(1 - (1 - population) ** k)) for k in ks}
    later = raised(population)
    deltas = {k: float(np.mean((1 - population) ** k - (1 - later) ** k)) for k in ks[:2]}
    tasks = [(distribution, num_problems, samples, seed, truth, deltas) for seed in range(replicates)]
    start = time.monotonic()
    rows = pool.map(replicate, tasks, chunksize=20)
    result = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    for k, name in zip(ks, ("pass@1", "pass@n", "pass@4n", "pass@32n"), strict=True):
        result[f"{name} oracle"] = 2 * 1.96 * float(np.std(1 - (1 - population) ** k)) / np.sqrt(num_problems)
    return result | {"replicates": replicates, "seconds": time.monotonic() - start}


def table(cells: dict[str, dict[str, float]], command: str) -> str:
    lines = [
        "# Coverage of 95 % intervals, and wrong verdicts",
        "",
        f"`{command}` on {platform.machine()}, {os.cpu_count()} cores. Replicates per cell: {int(min(c['replicates'] for c in cells.values())):,} or more.",
        "",
        "Distributions: " + "; ".join(f"*{name}*: {DISTRIBUTIONS[name].what}" for name in SHOWN) + ".",
        "",
        (
            "Each entry is coverage, then the mean width and (in brackets) the width that would be left if every problem's rate were known. Under "
            "*adaptive* rounds stop when the label is decided or at 64 samples per problem on average; n stands for the primary k, 16. `id` is the share of "
            "replicates in which the quantity is called identified; where it is not, the ends are bounds without an estimate, and the coverage is theirs."
        ),
        "",
        "| distribution | problems | n | samples used | pass@1 | pass@n | pass@4n | pass@32n | Δ pass@1 | Δ pass@n | label decided / wrong | problem labels decided / wrong |",
        "|---|--:|--:|--:|---|---|---|---|---|---|---|---|",
    ]
    for key, c in cells.items():
        distribution, problems, n = key.split("|")

        def entry(name: str, *, identified: bool = False, c: dict[str, float] = c) -> str:
            if f"{name} covers" not in c:
                return "–"
            text = f"{c[f'{name} covers']:.3f}, {c[f'{name} width']:.2f}"
            text += f" ({c[f'{name} oracle']:.2f})" if f"{name} oracle" in c else ""
            return text + (f", id {c[f'{name} identified']:.2f}" if identified else "")

        lines.append(
            f"| {distribution} | {problems} | {n} | {c['samples']:.1f} | {entry('pass@1')} | {entry('pass@n')} | {entry('pass@4n', identified=True)} | "
            f"{entry('pass@32n', identified=True)} | {entry('delta pass@1')} | {entry('delta pass@n')} | "
            f"{c['label decided']:.2f} / {c['label wrong']:.3f} | {c['states decided']:.2f} / {c['states wrong']:.3f} |"
        )
    names = ("pass@1", "pass@n", "pass@4n", "pass@32n", "delta pass@1", "delta pass@n")
    covers = {name: [c[f"{name} covers"] for c in cells.values() if f"{name} covers" in c] for name in names}
    lowest = {name: min(rates) for name, rates in covers.items() if rates}
    lines += [
        "",
        "Lowest coverage: " + ", ".join(f"{name} {value:.3f}" for name, value in lowest.items()) + ". "
        f"Highest wrong-verdict rate: {max(c['label wrong'] for c in cells.values()):.3f} of labels, "
        f"{max(c['states wrong'] for c in cells.values()):.3f} of the labels of problems; a label of a problem exactly at a threshold counts as wrong. The Monte-Carlo error of a rate of 0.05 at 2,000 replicates is 0.005.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/coverage.md"))
    parser.add_argument("--cache", type=Path, default=Path("runs/coverage-cells.json"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--problems", nargs="*", type=int, default=list(PROBLEMS))
    parser.add_argument("--samples", nargs="*", choices=SAMPLES, default=list(SAMPLES))
    parser.add_argument("--distributions", nargs="*", default=list(SHOWN))
    parser.add_argument("--only-table", action="store_true", help="write the table of the cells in the cache, and run none")
    arguments = parser.parse_args()
    cells: dict[str, dict[str, float]] = json.loads(arguments.cache.read_text()) if arguments.cache.exists() else {}
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    keys = [
        (distribution, p, n) for n in arguments.samples for p in arguments.problems for distribution in arguments.distributions
    ]
    with Pool(arguments.processes) as pool:
        for distribution, p, n in keys:
            key = f"{distribution}|{p}|{n}"
            if not arguments.only_table and cells.get(key, {}).get("replicates", 0) < arguments.replicates:
                cells[key] = cell(distribution, p, n, arguments.replicates, pool)
                arguments.cache.write_text(json.dumps(cells))
                print(
                    key,
                    {k: round(v, 3) for k, v in cells[key].items() if "covers" in k or "wrong" in k or k == "seconds"},
                    flush=True,
                )
    ordered = {
        key: cells[key]
        for distribution in arguments.distributions
        for p in PROBLEMS
        for n in SAMPLES
        if (key := f"{distribution}|{p}|{n}") in cells
    }
    missing = [f"{distribution}|{p}|{n}" for distribution, p, n in keys if f"{distribution}|{p}|{n}" not in ordered]
    text = table(ordered, f"python benchmarks/coverage.py --replicates {arguments.replicates}")
    if missing:
        text += f"\nNot run yet: {'; '.join(cell.replace('|', ', ') for cell in missing)}. The command resumes from its cache.\n"
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
