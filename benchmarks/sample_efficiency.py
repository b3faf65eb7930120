"""Samples that a right label costs: the library's adaptive rounds against fixed schedules, under one posterior and one stopping rule.

    python benchmarks/sample_efficiency.py

Behaviors come from the held-out families of `held_out_rates.py`. Four ways to sample the same outcomes:

* rounds: the rounds of the library;
* doubling: 4, 8, 16, ... samples of every problem;
* fewest first: the problem with the fewest successes first (arXiv 2510.05197, Algorithm 1), in rounds of a third of the samples so far;
* fixed: `FIXED` samples of every problem.

The first three ask the library after every round whether the label is decided, and end there or at a cap. What they cost is the samples of
all behaviors, undecided ones too, divided by the right labels. Results are cached; a stopped run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # for helpers

import numpy as np
from held_out_library import THRESHOLDS, Ints, named_problems, posterior_of
from held_out_rates import EPSILON, FAMILIES, Array, true_label, true_majority, true_problem_labels
from held_out_statistics import CACHE, fingerprint
from helpers.fewest_successes_first import fewest_successes_first

from posttrain.diagnose.measure.label_posterior import BEHAVIOR_LABELS, LabelPosterior
from posttrain.diagnose.sampling.plan import Goal, Round, RoundReason, SampleCounts, next_round

NUM_PROBLEMS = 50
CAPS = (8, 16, 32, 64)
MOST = CAPS[-1]
"""Samples per problem, on average, at which an undecided behavior is left."""
FIXED = 256
RESAMPLES = 400
ADAPTIVE = ("rounds", "doubling", "fewest first")
Path_ = list[tuple[float, ...]]
"""Per analysis: samples per problem, whether the label is decided, right, and wrong, share of problem labels right and wrong."""
Allocate = Callable[[Round, Ints, Ints], Ints]
"""From the library's plan, samples and successes to the next samples."""


def follow(rates: Array, tape: Ints, seed: int, allocate: Allocate, first: int | None = None, most: int = MOST) -> Path_:
    """Sample round by round until the label is decided or `most` samples per problem are used."""
    n = np.zeros(rates.size, dtype=np.int64) if first is None else np.full(rates.size, first)
    path: Path_ = []
    goal = Goal(max_tokens=most * rates.size)
    while True:
        c = tape[np.arange(rates.size), n]
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()))
        known = posterior_of(n, c, None, seed) if n.any() else None
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=1, thresholds=THRESHOLDS, seed=seed)
        if known is not None:
            sure = known.sampling_confidence >= THRESHOLDS.confidence
            decided = plan.reason is RoundReason.LABEL_DECIDED or (plan.last and sure)
            right = says_right(known, rates)
            named, truth = named_problems(known), true_problem_labels(rates)
            good, bad = ((named >= 0) & (named == truth)).mean(), ((named >= 0) & (named != truth)).mean()
            path.append(
                (float(n.mean()), float(decided), float(decided and right), float(decided and not right), float(good), float(bad))
            )
        if plan.last:
            return path
        n = np.minimum(n + allocate(plan, n, c), tape.shape[1] - 1)


def says_right(known: LabelPosterior, rates: Array) -> bool:
    """Return whether what ended the sampling is so: the label, or which label holds most problems."""
    if known.confidence >= THRESHOLDS.confidence:
        return known.label is true_label(rates)
    return BEHAVIOR_LABELS[int(np.bincount(known.majority).argmax())] is true_majority(rates)


def replicate(family: str, seed: int) -> dict[str, Path_]:
    """Return what each way to sample found on one behavior."""
    rng = np.random.default_rng([11, seed, list(FAMILIES).index(family)])
    rates, _ = FAMILIES[family](rng).draw(rng, NUM_PROBLEMS)
    outcomes = rng.random((NUM_PROBLEMS, MOST * NUM_PROBLEMS)) < rates[:, None]
    tape = np.concatenate([np.zeros((NUM_PROBLEMS, 1), dtype=np.int64), np.cumsum(outcomes, axis=1)], axis=1)

    def fewest(plan: Round, n: Ints, c: Ints) -> Ints:
        return fewest_successes_first(n, c, min(int(MOST * n.size - n.sum()), max(32, int(n.sum()) // 3)))

    return {
        "rounds": follow(rates, tape, seed, lambda plan, n, c: plan.extra),
        "doubling": follow(rates, tape, seed, lambda plan, n, c: n, first=4),
        "fewest first": follow(rates, tape, seed, fewest, first=3),
        "fixed": follow(rates, tape, seed, lambda plan, n, c: n, first=FIXED, most=FIXED),
    }


def ends(results: list[dict[str, Path_]], method: str, cap: float) -> Array:
    """Return [R, 6] the last analysis of every behavior at or below a cap."""
    paths = [result[method] for result in results]
    return np.array([next((row for row in reversed(path) if row[0] <= cap + 1e-9), path[0]) for path in paths])


def cost(rows: Array) -> float:
    """Return the samples per problem that a right label costs."""
    return float(rows[:, 0].sum() / max(rows[:, 2].sum(), 1e-9))


def cost_at(results: list[dict[str, Path_]], method: str, share: float) -> float:
    """Return the mean samples at which a method reaches a share of right labels, interpolated over caps; infinity where it does not."""
    curve = np.array([ends(results, method, cap)[:, [0, 2]].mean(axis=0) for cap in np.geomspace(2, MOST, 60)])
    reached = np.flatnonzero(curve[:, 1] >= share - 1e-12)
    if not reached.size:
        return float("inf")
    i = int(reached[0])
    return float(curve[i, 0] if i == 0 else np.interp(share, curve[i - 1 : i + 1, 1], curve[i - 1 : i + 1, 0]))


def ratio(results: list[dict[str, Path_]], method: str, cap: float = MOST) -> tuple[float, float]:
    """Return how many times the samples per right label of rounds another method takes, and the standard error over behaviors."""
    rounds, other = ends(results, "rounds", cap), ends(results, method, cap if method != "fixed" else FIXED)
    rng = np.random.default_rng(0)
    again = [cost(other[chosen]) / cost(rounds[chosen]) for chosen in rng.integers(len(rounds), size=(RESAMPLES, len(rounds)))]
    return cost(other) / cost(rounds), float(np.std(again))


def page(results: dict[str, list[dict[str, Path_]]], command: str) -> str:
    """Write the Markdown page."""
    every = [result for rows in results.values() for result in rows]
    against = {method: ratio(every, method) for method in ("doubling", "fewest first", "fixed")}
    share = float(ends(every, "rounds", MOST)[:, 2].mean())
    same = cost_at(every, "doubling", share) / max(1e-9, cost_at(every, "rounds", share))
    at_same = f"{same:.2f} times" if np.isfinite(same) else "which it does not reach within them, more"
    lines = [
        "# Samples that a right label costs", "",
        f"`{command}`: {len(every):,} behaviors of {NUM_PROBLEMS} problems from {len(results)} held-out families (`held_out_rates.py`).", "",
        (f"**Plain doubling, under the same posterior and stopping rule, takes {against['doubling'][0]:.2f} ± {against['doubling'][1]:.2f} times the samples per right label of the "
        f"library's rounds**, with at most {MOST} samples of a problem on average; at an equal share of right labels ({share:.2f}), {at_same}. Fewest-successes-first "
        f"takes {against['fewest first'][0]:.2f} ± {against['fewest first'][1]:.2f} times, {FIXED} samples of every problem {against['fixed'][0]:.1f} ± {against['fixed'][1]:.1f} times."), "",
        "Samples are per problem, of all behaviors, undecided ones too. *Right*, *wrong*: shares of the behaviors. Labels of problems: shares of the problems.", "",
        "| way to sample | cap | samples | label right | wrong | samples per right label | problem labels right | wrong |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    for method in (*ADAPTIVE, "fixed"):
        for cap in CAPS if method != "fixed" else (FIXED,):
            rows = ends(every, method, cap)
            used, _, right, wrong, good, bad = rows.mean(axis=0)
            lines.append(
                f"| {method} | {cap} | {used:.1f} | {right:.3f} | {wrong:.3f} | {cost(rows):.1f} | {good:.2f} | {bad:.3f} |"
            )
    lines += [
        "", f"By family, at most {MOST} samples: samples, then shares right and wrong.", "",
        "| family | rounds | doubling | fewest first | doubling / rounds |", "|---|---|---|---|--:|",
    ]  # fmt: skip
    for family, rows in results.items():
        entries = []
        for method in ADAPTIVE:
            used, _, right, wrong, *_ = ends(rows, method, MOST).mean(axis=0)
            entries.append(f"{used:.1f}: {right:.2f}, {wrong:.3f}")
        times, error = ratio(rows, "doubling")
        lines.append(f"| {family} | {' | '.join(entries)} | {times:.2f} ± {error:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Sample the behaviors that are not cached and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=40, help="behaviors of a family")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/sample_efficiency.md"))
    arguments = parser.parse_args()
    cache = CACHE / f"sample_efficiency-{fingerprint()}.json"
    known: dict[str, list[dict[str, Path_]]] = json.loads(cache.read_text()) if cache.exists() else {}
    cache.parent.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        rows = known.setdefault(family, [])
        rows += [replicate(family, seed) for seed in range(len(rows), arguments.replicates)]
        cache.write_text(json.dumps(known))
        print(
            f"{family}: rounds {cost(ends(rows, 'rounds', MOST)):.1f}, doubling {cost(ends(rows, 'doubling', MOST)):.1f}",
            flush=True,
        )
    chosen = {family: rows[: arguments.replicates] for family, rows in known.items()}
    command = "python benchmarks/sample_efficiency.py" + (
        f" --replicates {arguments.replicates}" if arguments.replicates != 40 else ""
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(chosen, command))
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
