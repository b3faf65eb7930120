"""How many samples does a share of right verdicts cost: adaptive rounds against every fixed n and against fewest successes first?

    python benchmarks/sample_efficiency.py --out reports/benchmarks/sample_efficiency.md

For each distribution of difficulty, 50 problems are drawn again and again. All methods judge with the same posterior; they differ in where they
sample. Two questions are asked. *Problems*: what share of the problems has its state named, and rightly? *Behavior*: of what share of the
behaviors is the label named, and rightly? "Samples" are those per problem, on average, at which a method first reaches the share. For
labels the replicates of a distribution are the behaviors of one run, with one budget for all, and take turns as there; in the last row the
behaviors of all distributions are.
Looks of finished distributions are kept in build/benchmarks/sample_efficiency.json, so that a stopped run goes on, a table is made anew in a minute,
and more replicates cost what is added.

Bounds. *Told the distribution*, for problems: a method that is told the distribution, and so needs to learn nothing but each problem's own rate, and that
stops and allocates optimally by dynamic programming over (samples, successes), the bound being the dual over rewards and prices
(`Known.least`). Nothing that has to learn the distribution can need fewer samples, if it errs no more often.

*Whatever the rates*: a method that is wrong at most one time in twenty whatever the rates are.

* Problems, each judged by its own samples: if it names a problem of rate p rightly with probability d, then it needs

      E[N] ≥ kl(d, .05) / KL(p, θ)

  for either threshold θ, because there the same claim would be wrong. Rounds may need fewer: they borrow from the other problems, and are
  held to a share of wrong states over all problems.
* Behavior: the same for a label, whose price in samples per nat is that of the dearest other rates with another label (`price_of_label`).

In both the d that give the share at the least mean solve kl'(d, .05) = λ / price (`least_samples`).

Source of the last two: Garivier and Kaufmann, arXiv 1602.04589; for one problem, Wald 1945.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # for helpers

import numpy as np
from distributions import DISTRIBUTIONS, EPSILON, MASTERED, Array, states, true_label
from helpers.fewest_successes_first import fewest_successes_first
from numpy.typing import NDArray
from scipy.special import expit, logit, rel_entr

from posttrain.analysis.stats import neyman_allocation
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior, problem_labels
from posttrain.diagnose.sampling.stopping import (
    FIRST,
    GROWTH,
    SMALLEST_ROUND,
    Counts,
    Goal,
    next_round,
    size_of_round,
    undecided_problems,
)
from posttrain.diagnose.thresholds import Thresholds

NUM_PROBLEMS = 50
FIXED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST = 256
ERROR = 0.05
HORIZON = 1280
"""Most samples of one problem for who is told the distribution."""
RESAMPLES = 400
"""Of replicates, for standard errors."""
DRAWN = 200_000
"""Rates that stand for a distribution."""
RESULTS = Path(__file__).parents[1] / "build" / "benchmarks" / "sample_efficiency.json"
THRESHOLDS = Thresholds()
Ints = NDArray[np.int64]
Looks = list[tuple[float, ...]]
"""Per look: samples per problem, share of problems right and wrong, label right and wrong; of rounds also when it is their turn."""
ALL = "all of them"


def judge(known: LabelPosterior, rates: Array) -> tuple[float, float, float, float]:
    inside = known.mixture.interval_probabilities([EPSILON, MASTERED], strict=True)
    named = problem_labels(inside, THRESHOLDS)
    sure = named >= 0
    right = named == states(rates)
    definite = known.confidence >= THRESHOLDS.confidence
    label = known.label is true_label(rates)
    return float((sure & right).mean()), float((sure & ~right).mean()), float(definite and label), float(definite and not label)


def posterior(n: Ints, c: Ints, seed: int) -> LabelPosterior:
    return label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=seed)


def rounds(rates: Array, tape: NDArray[np.int64], goal: Goal, seed: int) -> Looks:
    """The library's own rounds, to their own end."""
    n = np.zeros(rates.size, dtype=np.int64)
    path: Looks = []
    while True:
        c = tape[np.arange(rates.size), n]
        counts = Counts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()))
        known = posterior(n, c, seed) if n.any() else None
        plan = next_round(
            counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=1, thresholds=THRESHOLDS, seed=seed, known=known
        )
        if known is not None:
            path.append((float(n.mean()), *judge(known, rates), plan.turn))
        if plan.last:
            return path
        n = np.minimum(n + plan.extra, tape.shape[1] - 1)


def fewest_first(rates: Array, tape: NDArray[np.int64], seed: int) -> Looks:
    """The published allocation in rounds of the same size, judged and stopped by the same posterior (label confidence as at an interim look)."""
    n = np.full(rates.size, FIRST)
    path: Looks = []
    while True:
        c = tape[np.arange(rates.size), n]
        known = posterior(n, c, seed)
        path.append((float(n.mean()), *judge(known, rates)))
        if n.mean() >= MOST:
            return path
        budget = min(int(MOST * rates.size - n.sum()), max(SMALLEST_ROUND, int(GROWTH * n.sum())))
        n = np.minimum(n + fewest_successes_first(n, c, budget), tape.shape[1] - 1)


def open_problems(rates: Array, tape: NDArray[np.int64], seed: int) -> Looks:
    """Rounds for the states of problems: those without a state are raised evenly, as `next_round` does for `Goal.problems`."""
    n = np.full(rates.size, FIRST)
    path: Looks = []
    rng = np.random.default_rng(seed)
    while True:
        c = tape[np.arange(rates.size), n]
        known = posterior(n, c, seed)
        path.append((float(n.mean()), *judge(known, rates)))
        undecided = undecided_problems(known, EPSILON, THRESHOLDS).astype(np.float64)
        if n.mean() >= MOST or not undecided.any():
            return path
        budget = min(int(MOST * rates.size - n.sum()), size_of_round(n, undecided))
        n = np.minimum(n + neyman_allocation(n, undecided, budget=budget, rng=rng), tape.shape[1] - 1)


def replicate(distribution: str, seed: int) -> dict[str, Looks]:
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


def ends(paths: list[Looks], caps: Array, right: int, wrong: int) -> Array:
    """[R, C, 3] samples, right and wrong of every replicate, ended at its last look at or below each cap."""
    kept = [[next((look for look in reversed(path) if look[0] <= cap + 1e-9), path[0]) for cap in caps] for path in paths]
    return np.array(kept)[:, :, [0, right, wrong]]


def taking_turns(paths: list[Looks], budgets: Array, right: int, wrong: int) -> Array:
    """[B, 3] samples, share right and wrong of behaviors that share a budget, at the last look of each that it pays for."""
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
    """Samples at which a curve [C, 3] first reaches a share, on a straight line between its points; infinity where it never does."""
    used, good = curve[:, 0], curve[:, 1]
    reached = np.flatnonzero(good >= share - 1e-12)
    if not reached.size:
        return float("inf")
    i = int(reached[0])
    if i == 0 or good[i] == good[i - 1]:
        return float(used[i])
    return float(used[i - 1] + (used[i] - used[i - 1]) * (share - good[i - 1]) / (good[i] - good[i - 1]))


def drawn(distribution: str) -> Array:
    """[`DRAWN`] rates of a distribution."""
    return DISTRIBUTIONS[distribution].draw(np.random.default_rng(0), DRAWN)


class Known:
    """Someone who knows the distribution: the chances of every (samples, successes) of one problem, up to a horizon."""

    def __init__(self, distribution: str):
        rates = drawn(distribution)
        fine = np.concatenate(
            [np.linspace(0, 1, 161), [0.0005, 0.001, 0.002, 0.003, 0.0045, 0.0085, 0.012, 0.016, EPSILON, MASTERED]]
        )
        self.points = np.unique(fine)
        self.side = states(self.points)
        self.weight = np.zeros(self.points.size)
        for state in (-1, 0, 1, 2):  # every rate goes to the nearest point on its own side of the thresholds
            own, mine = np.flatnonzero(self.side == state), rates[states(rates) == state]
            if mine.size:
                nearest = np.searchsorted((self.points[own][1:] + self.points[own][:-1]) / 2, mine)
                np.add.at(self.weight, own[nearest], 1.0 / DRAWN)
        used = self.weight > 0
        rates, weight, side = self.points[used], self.weight[used], self.side[used]
        named = np.stack([weight, *((side == state) * weight for state in (0, 1, 2))], axis=1)
        chance = np.ones((1, rates.size))  # of c successes in n samples at each rate
        self.mass, self.best = [], []
        for _ in range(HORIZON + 1):
            both = chance @ named
            self.mass.append(both[:, 0])
            self.best.append(both[:, 1:].max(axis=1))
            none = np.zeros((1, rates.size))
            chance = np.concatenate([chance * (1.0 - rates), none]) + np.concatenate([none, chance * rates])
        ratios = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 9.0, 19.0, 40.0, 100.0])
        self.reward = np.repeat(np.geomspace(2, 100_000, 24), ratios.size)
        self.price = self.reward * np.tile(ratios, 24)
        self.value = self.best_values()

    def best_values(self) -> Array:
        """[R] greatest mean of reward·right − price·wrong − samples that any rule attains, for each reward and price."""
        value = np.zeros((self.reward.size, 0))
        for n in range(HORIZON, -1, -1):
            mass, best = self.mass[n], self.best[n]
            stop = np.maximum(self.reward[:, None] * best - self.price[:, None] * (mass - best), 0.0)
            if value.size:
                # Of all ways to n + 1 samples with c successes a share of (n + 1 − c)/(n + 1) comes by n samples with c.
                up = np.arange(1, n + 2) / (n + 1)
                stop = np.maximum(stop, value[:, :-1] * up[::-1] + value[:, 1:] * up - mass)
            value = stop
        return np.asarray(value[:, 0])

    def least(self, share: float, error: float) -> float:
        """Mean samples below which no rule names `share` of the problems rightly and at most `error` wrongly.

        Whatever the reward and the price, such a rule has reward·share − price·error − samples ≤ the greatest value there is.
        """
        return float(np.max(self.reward * share - self.price * error - self.value))


def least_alone(rates: Array, share: float) -> float:
    """Mean samples of a problem that name `share` of them where each is judged by its own, wrong at most `ERROR` of the time whatever its rate.

    Args:
        rates: [R] drawn from the distribution.
        share: Of the problems, to be named rightly.
    """
    rates = rates[states(rates) >= 0]  # at a threshold either claim is wrong
    nats = np.minimum(*(bernoulli_kl(rates, edge) for edge in (EPSILON, MASTERED)))
    return least_samples(1.0 / nats, np.full(rates.size, 1.0 / DRAWN), share)


def least_samples(price: Array, weight: Array, share: float) -> float:
    """Least mean samples where naming with probability d costs price·kl(d, `ERROR`), and the mean of d must be `share`.

    Args:
        price: [R] samples per nat, at least 0, infinite where no samples help.
        weight: [R] sums to at most one.
        share: Of all.
    """
    able = np.isfinite(price)
    price, weight, free = price[able], weight[able], ERROR * float(weight[~able].sum())
    if share - free > weight.sum() - 1e-9:  # all are named for sure, or more than can be
        return float(weight @ price * -np.log(ERROR)) if share - free < weight.sum() + 1e-9 else float("inf")
    with np.errstate(divide="ignore"):
        nats = np.minimum(1.0 / price, 1e12)
    low, high = 0.0, 1e9  # λ
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if weight @ expit(middle * nats + logit(ERROR)) + free < share else (low, middle)
    return float(weight @ (bernoulli_kl(expit(high * nats + logit(ERROR)), ERROR) * price))


def bernoulli_kl(p: Array, q: Array | float) -> Array:
    """[P] Kullback–Leibler divergence between outcomes of rates p and q."""
    return np.asarray(rel_entr(p, q) + rel_entr(1.0 - p, 1.0 - np.asarray(q)))


def price_of_label(rates: Array) -> float:
    """Samples per problem that each nat about the label takes at least, whatever is sampled.

    A sample of problem i tells its rate p_i from p'_i by KL(p_i, p'_i) nats. Other rates with another label: all problems move a little,
    each by as many nats, until the mean crosses `MASTERED`; or just enough problems cross a threshold that the other state has more,
    where any of those may be the ones. The dearest counts, and what is spent on different problems adds up.

    Source: Garivier and Kaufmann, arXiv 1602.04589, Theorem 1.
    """
    below, above = rates < EPSILON, rates >= MASTERED
    between = ~below & ~above
    up = rates.mean() < MASTERED
    dearest = 1.0 / nats_to_the_mean(rates)
    if up and below.sum() > between.sum():
        gap = int(below.sum() - between.sum())  # closes by two with a problem out of support, by one with one that is mastered
        dearest = max(dearest, price_of_any(rates[below], EPSILON, -(-gap // 2)) + price_of_any(rates[above], MASTERED, gap))
    elif up:
        gap = int(between.sum() - below.sum()) + 1
        dearest = max(dearest, price_of_any(rates[between], EPSILON, -(-gap // 2)))
    return float(dearest / rates.size)


def nats_to_the_mean(rates: Array) -> float:
    """Nats that every problem must move by for the mean to cross `MASTERED`."""
    up = rates.mean() < MASTERED
    low, high = 0.0, 5.0
    for _ in range(40):
        nats = (low + high) / 2
        near, far = rates.copy(), np.full(rates.size, 1.0 - 1e-12 if up else 1e-12)
        for _ in range(40):
            middle = (near + far) / 2
            inside = bernoulli_kl(rates, middle) < nats
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        low, high = (low, nats) if (near.mean() >= MASTERED) == up else (nats, high)
    return high


def price_of_any(rates: Array, edge: float, moved: int) -> float:
    """Samples per nat where any `moved` of these problems may be those that lie at an edge instead; none where there are fewer."""
    if moved > rates.size:
        return 0.0
    nats = np.sort(bernoulli_kl(rates, edge))[::-1]
    with np.errstate(divide="ignore"):
        price = np.cumsum(1.0 / nats)
    # Of those moved, if all but the cheapest to tell get no samples.
    left = moved - (nats.size - np.arange(1, nats.size + 1))
    return float((price[left > 0] / left[left > 0]).min())


def drawn_rates(distribution: str, seed: int) -> tuple[Array, np.random.Generator]:
    rng = np.random.default_rng([11, seed, sorted(DISTRIBUTIONS).index(distribution)])
    return DISTRIBUTIONS[distribution].draw(rng, NUM_PROBLEMS), rng


def budgets() -> Array:
    return np.unique(np.concatenate([np.geomspace(2, MOST, 40), np.asarray(FIXED, dtype=np.float64)]))


def of_problems(distribution: str, results: list[dict[str, Looks]]) -> str:
    """The row on the states of problems."""
    known, right, wrong = Known(distribution), 1, 2
    mine = ends([result["rounds for problems"] for result in results], budgets(), right, wrong)

    def path_of(chosen: Ints) -> Array:
        return np.asarray(mine[chosen].mean(axis=0))

    def bounds(target: float, erring: float) -> list[float]:
        return [*(known.least(target, error) for error in (max(erring, 0.001), ERROR)), least_alone(drawn(distribution), target)]

    return row(distribution, "problems", results, path_of, bounds, right, wrong)


def of_labels(distribution: str, results: list[dict[str, Looks]], rates: list[Array]) -> str:
    """The row on the labels of behaviors."""
    right, wrong = 3, 4
    mine = [result["rounds for the label"] for result in results]

    def path_of(chosen: Ints) -> Array:
        return taking_turns([mine[i] for i in chosen], budgets(), right, wrong)

    def bounds(target: float, erring: float) -> list[float]:
        price = np.array([price_of_label(one) for one in rates])
        return [np.inf, np.inf, least_samples(price, np.full(price.size, 1 / price.size), target)]

    return row(distribution, "behavior", results, path_of, bounds, right, wrong)


def row(
    distribution: str,
    what: str,
    results: list[dict[str, Looks]],
    path_of: Callable[[Ints], Array],
    bounds: Callable[[float, float], list[float]],
    right: int,
    wrong: int,
) -> str:
    """A row of the table: what the rounds of the chosen replicates reach, beside everything else."""
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
    doubt = float(np.std([first_at(*one) for one in again]))
    erring = float(np.interp(used, *path[:, [0, 2]].T))
    cheapest = next((n for n, value in zip(fixed[:, 0], fixed[:, right], strict=True) if value >= target - 1e-12), np.inf)
    against = f"{first:.0f} ({first / used:.1f}×)" if np.isfinite(first) else f"not at {MOST} ({theirs[:, 1].max():.2f})"
    eighth = float(np.interp(MOST / 8, *path[:, [0, 1]].T))
    return (
        f"| {distribution} | {what} | {target:.2f} | {eighth:.2f} | {used:.1f} ± {doubt:.1f} | {MOST} ({MOST / used:.1f}×) | {cheapest:.0f} ({cheapest / used:.1f}×) | {against} | "
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
    parser.add_argument("--fresh", action="store_true", help="forget the looks of earlier runs")
    arguments = parser.parse_args()
    kept: dict[str, list[dict[str, Looks]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Samples that a verdict costs", "",
        f"`python benchmarks/sample_efficiency.py --replicates {arguments.replicates}`: {NUM_PROBLEMS} problems, {arguments.replicates} replicates a distribution.", "",
        (
            f"The target is the share of right verdicts that {MOST} samples of every problem give (or the most that rounds reach, if less). *rounds at {MOST // 8}*: the share that rounds "
            "reach with an eighth of the samples. *rounds*: samples for the target, with the standard error over replicates; for labels, all replicates are behaviors of one run and "
            f"share its budget (the last row: those of all distributions). *cheapest fixed n*: the smallest of 1, 2, 4, ... {MOST} that reaches the target. *wrong*: share wrong at the target. "
            f"*told the distribution*: least samples of a method that is told the distribution and has at most {HORIZON:,} samples of one problem; it errs no more often than the rounds did (or at most .05). "
            "*any*: for problems, the least that a method needs which judges each by its own samples and errs at most .05 of the time whatever the rate, where rounds, which borrow "
            "from the other problems, may need fewer; for labels, the least of any method which errs at most .05 of the time whatever the rates (see the script). Bounds are of the distribution, "
            "rounds of the problems drawn from it: where nearly all is named that can be, the two may cross. –: less than a tenth of a sample, or no such bound."
        ), "",
        f"| distribution | verdict on | target | rounds at {MOST // 8} | rounds | n = 256 | cheapest fixed n | fewest successes first | wrong | told the distribution | told the distribution, 5 % wrong | any, 5 % wrong whatever the rates |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    behaviors: list[dict[str, Looks]] = []
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
