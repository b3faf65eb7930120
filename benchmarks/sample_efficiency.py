"""How many samples a share of correct verdicts costs: adaptive rounds against every fixed n and against fewest successes first.

    python benchmarks/sample_efficiency.py --out reports/benchmarks/sample_efficiency.md

For each distribution of difficulty, 50 problems are drawn per replicate. All methods label with the same posterior; they differ in where they
sample. *Problems*: the share of problems that are labelled, and correctly. *Behavior*: the share of behaviors that are labelled, and
correctly. "Samples" are the mean samples per problem at which a method first reaches the share. For labels of behaviors, the replicates of
a distribution are the behaviors of one run that share one token budget and are scheduled as there; in the last row the behaviors of all
distributions are. Interim analyses of finished distributions are cached in build/benchmarks/sample_efficiency.json, so that a stopped run
can be resumed, a table is rewritten in a minute, and more replicates cost only what is added.

Lower bounds stand beside them (`sample_bounds.py`).
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # for helpers

import numpy as np
from distributions import DISTRIBUTIONS, EPSILON, MASTERED, Array, true_label, true_problem_labels
from helpers.fewest_successes_first import fewest_successes_first
from numpy.typing import NDArray
from sample_bounds import ERROR, HORIZON, KnownDistribution, least_alone, least_samples, price_of_label, reference_rates

from posttrain.analysis.stats import neyman_allocation
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior, problem_labels
from posttrain.diagnose.sampling.allocation import round_size
from posttrain.diagnose.sampling.plan import Goal, SampleCounts, next_round
from posttrain.diagnose.thresholds import Thresholds

NUM_PROBLEMS = 50
FIXED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST = 256
RESAMPLES = 400
"""Bootstrap samples of replicates, for standard errors."""
RESULTS = Path(__file__).parents[1] / "build" / "benchmarks" / "sample_efficiency.json"
THRESHOLDS = Thresholds()
RULE = THRESHOLDS.sampling
SURER = replace(THRESHOLDS, problem_confidence=THRESHOLDS.confidence)
"""Repeated analyses must be surer of each single problem."""
Ints = NDArray[np.int64]
Analyses = list[tuple[float, ...]]
"""Per interim analysis: samples per problem, share of problems correct and wrong, label correct and wrong; of rounds also the priority."""
ALL = "all of them"


def judge(known: LabelPosterior, rates: Array) -> tuple[float, float, float, float]:
    inside = known.mixture.interval_probabilities([EPSILON, MASTERED], strict=True)
    named = problem_labels(inside, THRESHOLDS)
    sure = named >= 0
    right = named == true_problem_labels(rates)
    definite = known.confidence >= THRESHOLDS.confidence
    label = known.label is true_label(rates)
    return float((sure & right).mean()), float((sure & ~right).mean()), float(definite and label), float(definite and not label)


def posterior(n: Ints, c: Ints, seed: int) -> LabelPosterior:
    return label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=seed)


def rounds(rates: Array, tape: NDArray[np.int64], goal: Goal, seed: int) -> Analyses:
    """Sample in the adaptive rounds of the library until they stop."""
    n = np.zeros(rates.size, dtype=np.int64)
    path: Analyses = []
    while True:
        c = tape[np.arange(rates.size), n]
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()))
        known = posterior(n, c, seed) if n.any() else None
        plan = next_round(
            counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=1, thresholds=THRESHOLDS, seed=seed, posterior=known
        )
        if known is not None:
            path.append((float(n.mean()), *judge(known, rates), plan.priority))
        if plan.last:
            return path
        n = np.minimum(n + plan.extra, tape.shape[1] - 1)


def fewest_first(rates: Array, tape: NDArray[np.int64], seed: int) -> Analyses:
    """Sample by the published allocation in rounds of the same size, labelled by the same posterior."""
    n = np.full(rates.size, RULE.first_round)
    path: Analyses = []
    while True:
        c = tape[np.arange(rates.size), n]
        known = posterior(n, c, seed)
        path.append((float(n.mean()), *judge(known, rates)))
        if n.mean() >= MOST:
            return path
        budget = min(int(MOST * rates.size - n.sum()), max(RULE.smallest_round, int(RULE.growth * n.sum())))
        n = np.minimum(n + fewest_successes_first(n, c, budget), tape.shape[1] - 1)


def open_problems(rates: Array, tape: NDArray[np.int64], seed: int) -> Analyses:
    """Sample in adaptive rounds for the labels of problems: those without a label get samples evenly."""
    n = np.full(rates.size, RULE.first_round)
    path: Analyses = []
    rng = np.random.default_rng(seed)
    while True:
        c = tape[np.arange(rates.size), n]
        known = posterior(n, c, seed)
        path.append((float(n.mean()), *judge(known, rates)))
        inside = known.mixture.interval_probabilities((EPSILON, THRESHOLDS.mastered), strict=True)
        undecided = (problem_labels(inside, SURER) < 0).astype(np.float64)
        if n.mean() >= MOST or not undecided.any():
            return path
        budget = min(int(MOST * rates.size - n.sum()), round_size(n, undecided, RULE))
        n = np.minimum(n + neyman_allocation(n, undecided, budget=budget, rng=rng), tape.shape[1] - 1)


def replicate(distribution: str, seed: int) -> dict[str, Analyses]:
    rates, rng = drawn_rates(distribution, seed)
    # No problem can get more samples than the cap of all of them.
    outcomes = rng.random((NUM_PROBLEMS, MOST * NUM_PROBLEMS + 1)) < rates[:, None]
    tape = np.concatenate([np.zeros((NUM_PROBLEMS, 1), dtype=np.int64), np.cumsum(outcomes, axis=1)], axis=1)
    fixed = [(float(n), *judge(posterior(np.full(NUM_PROBLEMS, n), tape[:, n], seed), rates)) for n in FIXED]
    return {
        "fixed": fixed,
        "rounds for problems": open_problems(rates, tape, seed),
        "rounds for the label": rounds(rates, tape, Goal(max_tokens=MOST * NUM_PROBLEMS), seed),
        "fewest first": fewest_first(rates, tape, seed),
    }


def ends(paths: list[Analyses], caps: Array, right: int, wrong: int) -> Array:
    """Return [R, C, 3] samples, correct and wrong of every replicate at its last interim analysis at or below each cap."""
    kept = [[next((one for one in reversed(path) if one[0] <= cap + 1e-9), path[0]) for cap in caps] for path in paths]
    return np.array(kept)[:, :, [0, right, wrong]]


def share_budget(paths: list[Analyses], budgets: Array, right: int, wrong: int) -> Array:
    """Return [B, 3] samples, share correct and wrong of behaviors that share a budget, each at its last interim analysis within it."""
    at = [0] * len(paths)
    waiting = [(path[0][-1], i) for i, path in enumerate(paths) if len(path) > 1]
    heapq.heapify(waiting)
    now = np.array([[path[0][0], path[0][right], path[0][wrong]] for path in paths]).sum(axis=0)
    points = []
    for budget in budgets * len(paths):
        while waiting:
            i = waiting[0][1]
            old, new = paths[i][at[i]], paths[i][at[i] + 1]
            if now[0] + new[0] - old[0] > budget + 1e-9:
                break
            heapq.heappop(waiting)
            at[i] += 1
            now += [new[0] - old[0], new[right] - old[right], new[wrong] - old[wrong]]
            if at[i] + 1 < len(paths[i]):
                heapq.heappush(waiting, (new[-1], i))
        points.append(now / len(paths))
    return np.array(points)


def first_at(curve: Array, share: float) -> float:
    """Return the samples at which a curve [C, 3] first reaches a share, interpolated linearly; infinity where it never does."""
    used, good = curve[:, 0], curve[:, 1]
    reached = np.flatnonzero(good >= share - 1e-12)
    if not reached.size:
        return float("inf")
    i = int(reached[0])
    if i == 0 or good[i] == good[i - 1]:
        return float(used[i])
    return float(used[i - 1] + (used[i] - used[i - 1]) * (share - good[i - 1]) / (good[i] - good[i - 1]))


def drawn_rates(distribution: str, seed: int) -> tuple[Array, np.random.Generator]:
    rng = np.random.default_rng([11, seed, sorted(DISTRIBUTIONS).index(distribution)])
    return DISTRIBUTIONS[distribution].draw(rng, NUM_PROBLEMS), rng


def budgets() -> Array:
    return np.unique(np.concatenate([np.geomspace(2, MOST, 40), np.asarray(FIXED, dtype=np.float64)]))


def of_problems(distribution: str, results: list[dict[str, Analyses]]) -> str:
    """Make the row on the labels of problems."""
    known, right, wrong = KnownDistribution(distribution), 1, 2
    mine = ends([result["rounds for problems"] for result in results], budgets(), right, wrong)

    def path_of(chosen: Ints) -> Array:
        return np.asarray(mine[chosen].mean(axis=0))

    def bounds(target: float, erring: float) -> list[float]:
        return [
            *(known.least(target, error) for error in (max(erring, 0.001), ERROR)),
            least_alone(reference_rates(distribution), target),
        ]

    return row(distribution, "problems", results, path_of, bounds, right, wrong)


def of_labels(distribution: str, results: list[dict[str, Analyses]], rates: list[Array]) -> str:
    """Make the row on the labels of behaviors."""
    right, wrong = 3, 4
    mine = [result["rounds for the label"] for result in results]

    def path_of(chosen: Ints) -> Array:
        return share_budget([mine[i] for i in chosen], budgets(), right, wrong)

    def bounds(target: float, erring: float) -> list[float]:
        price = np.array([price_of_label(one) for one in rates])
        return [np.inf, np.inf, least_samples(price, np.full(price.size, 1 / price.size), target)]

    return row(distribution, "behavior", results, path_of, bounds, right, wrong)


def row(
    distribution: str,
    what: str,
    results: list[dict[str, Analyses]],
    path_of: Callable[[Ints], Array],
    bounds: Callable[[float, float], list[float]],
    right: int,
    wrong: int,
) -> str:
    """Make a row of the table: what adaptive rounds reach on bootstrap samples of the replicates, beside the other methods and the bounds."""
    every = np.array([result["fixed"] for result in results])
    fixed = every.mean(axis=0)

    def target_of(chosen: Ints) -> tuple[Array, float]:
        path = path_of(chosen)
        return path, min(float(every[chosen, -1, right].mean()), float(path[:, 1].max()))

    theirs = ends([result["fewest first"] for result in results], budgets(), right, wrong).mean(axis=0)
    path, target = target_of(np.arange(len(results)))
    used, first = first_at(path, target), first_at(theirs, target)
    rng = np.random.default_rng(0)
    again = [target_of(rng.integers(len(results), size=len(results))) for _ in range(RESAMPLES)]
    error = float(np.std([first_at(*one) for one in again]))
    erring = float(np.interp(used, *path[:, [0, 2]].T))
    cheapest = next((n for n, value in zip(fixed[:, 0], fixed[:, right], strict=True) if value >= target - 1e-12), np.inf)
    against = f"{first:.0f} ({first / used:.1f}×)" if np.isfinite(first) else f"not at {MOST} ({theirs[:, 1].max():.2f})"
    eighth = float(np.interp(MOST / 8, *path[:, [0, 1]].T))
    return (
        f"| {distribution} | {what} | {target:.2f} | {eighth:.2f} | {used:.1f} ± {error:.1f} | {MOST} ({MOST / used:.1f}×) | {cheapest:.0f} ({cheapest / used:.1f}×) | {against} | "
        f"{erring:.3f} | "
        + " | ".join(f"{least:.1f} ({MOST / least:.1f}×)" if 0.05 < least < np.inf else "–" for least in bounds(target, erring))
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/sample_efficiency.md"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--distributions", nargs="*", default=list(DISTRIBUTIONS))
    parser.add_argument("--fresh", action="store_true", help="discard the cached interim analyses")
    arguments = parser.parse_args()
    kept: dict[str, list[dict[str, Analyses]]] = (
        json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else {}
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Samples that a verdict costs", "",
        f"`python benchmarks/sample_efficiency.py --replicates {arguments.replicates}`: {NUM_PROBLEMS} problems, {arguments.replicates} replicates a distribution.", "",
        (
            f"The target is the share of correct verdicts that {MOST} samples of every problem give (or the most that rounds reach, if less). *rounds at {MOST // 8}*: the share that rounds "
            "reach with an eighth of the samples. *rounds*: samples for the target, with the standard error over replicates; for labels, all replicates are behaviors of one run and "
            f"share its budget (the last row: those of all distributions). *cheapest fixed n*: the smallest of 1, 2, 4, ... {MOST} that reaches the target. *wrong*: share wrong at the target. "
            f"*told the distribution*: least samples of a method that is told the distribution and has at most {HORIZON:,} samples of one problem; it errs no more often than the rounds did (or at most 0.05). "
            "*any*: for problems, the least for a method that labels each by its own samples and errs at most 0.05 of the time at any rate; rounds, which use "
            "the other problems too, may need fewer; for labels of behaviors, the least for any method that errs at most 0.05 of the time at any rates (see the script). Bounds are of the distribution, "
            "rounds of the problems drawn from it: where nearly all are labelled that can be, the two may cross. –: less than a tenth of a sample, or no such bound."
        ), "",
        f"| distribution | verdict on | target | rounds at {MOST // 8} | rounds | n = 256 | cheapest fixed n | fewest successes first | wrong | told the distribution | told the distribution, 5 % wrong | any, 5 % wrong at any rates |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    behaviors: list[dict[str, Analyses]] = []
    of_all: list[Array] = []
    with Pool(arguments.processes) as pool:
        for distribution in arguments.distributions:
            done = kept.setdefault(distribution, [])
            done += pool.map(partial(replicate, distribution), range(len(done), arguments.replicates), chunksize=5)
            RESULTS.write_text(json.dumps(kept))
            results = done[: arguments.replicates]
            rates = [drawn_rates(distribution, seed)[0] for seed in range(arguments.replicates)]
            rows = [of_problems(distribution, results), of_labels(distribution, results, rates)]
            lines += rows
            print("\n".join(rows), flush=True)
            behaviors, of_all = behaviors + results, of_all + rates
    lines.append(of_labels(ALL, behaviors, of_all))
    print(lines[-1])
    lines += ["", *(f"- *{name}*: {DISTRIBUTIONS[name].what}" for name in arguments.distributions)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
