"""How many samples does a share of right verdicts cost: adaptive rounds against every fixed n and against fewest successes first?

    python tests/benchmarks/sample_efficiency.py --out reports/benchmarks/sample_efficiency.md

For each law of difficulty, 50 problems are drawn again and again. All methods judge with the same posterior; they differ in where they
sample. Two questions are asked. *Problems*: what share of the problems has its state named, and rightly? *Behavior*: in what share of the
replicates is the label named, and rightly? "Samples" are those per problem, on average, at which a method first reaches the share.
Looks of finished laws are kept in build/benchmarks/sample_efficiency.json, so that a stopped run goes on and a table is made anew in a minute.

Three bounds. *Problems, told the law*: a method that is told the law, and so needs to learn nothing but each problem's own rate, and that stops and
allocates optimally by dynamic programming over (samples, successes), the bound being the dual over rewards and prices. Nothing that has to
learn the law can need fewer samples, if it errs no more often. *Problems, alone*: a method that judges each problem by its own samples and is wrong at most one time in twenty whatever the
rate. If it names a problem of rate p rightly with probability d, then it needs

    E[N] ≥ kl(d, .05) / KL(p, θ)

for either threshold θ, because there the same claim would be wrong; the d(p) that give the share at the least mean of E[N] over the law
solve kl'(d, .05) = λ KL(p, θ), so d = expit(λ KL(p, θ) + logit .05) at the nearer θ. Rounds may need fewer: they borrow from the other
problems, and are held to a share of wrong states over all problems. *Behavior*: the information that any method needs, however it allocates
and stops, that names a wrong label at most one time in twenty whatever the rates are (`least_for_label`).

Source of the last two: Garivier and Kaufmann, arXiv 1602.04589; for one problem, Wald 1945.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from laws import EPSILON, LAWS, MASTERED, Array, states, true_label
from numpy.typing import NDArray
from scipy.special import expit, logit, rel_entr

from posttrain.analysis.stats import fewest_successes_first, raise_evenly
from posttrain.diagnose.labels import LabelPosterior, Thresholds, label_posterior, named_states
from posttrain.diagnose.probes.rounds import (
    GROWTH,
    SMALLEST_ROUND,
    Counts,
    Goal,
    next_round,
    size_of_round,
    unsettled_problems,
)

NUM_PROBLEMS = 50
FIXED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST = 256
ERROR = 0.05
HORIZON = 1280
"""Most samples of one problem for who is told the law."""
RESULTS = Path(__file__).parents[2] / "build" / "benchmarks" / "sample_efficiency.json"
THRESHOLDS = Thresholds(num_draws=512)
Ints = NDArray[np.int64]
Looks = list[tuple[float, float, float, float, float]]
"""Per look: samples per problem, share of problems right and wrong, label right and wrong."""


def judge(known: LabelPosterior, rates: Array) -> tuple[float, float, float, float]:
    inside = known.mixture.state_probabilities([EPSILON, MASTERED], strict=True)
    named = named_states(inside, THRESHOLDS)
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
        counts = Counts(num_samples=n, num_correct=c, num_drawn=n, generated_tokens=int(n.sum()))
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=1, thresholds=THRESHOLDS, seed=seed)
        if plan.last:
            path.append((float(n.mean()), *judge(posterior(n, c, seed), rates)))
            return path
        if n.any():
            path.append((float(n.mean()), *judge(posterior(n, c, seed), rates)))
        n = np.minimum(n + plan.extra, tape.shape[1] - 1)


def fewest_first(rates: Array, tape: NDArray[np.int64], seed: int) -> Looks:
    """The published allocation in rounds of the same size, judged and stopped by the same posterior (label confidence as at an interim look)."""
    n = np.full(rates.size, 4)
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
    n = np.full(rates.size, 4)
    path: Looks = []
    rng = np.random.default_rng(seed)
    while True:
        c = tape[np.arange(rates.size), n]
        known = posterior(n, c, seed)
        path.append((float(n.mean()), *judge(known, rates)))
        undecided = unsettled_problems(known, EPSILON, THRESHOLDS).astype(np.float64)
        if n.mean() >= MOST or not undecided.any():
            return path
        budget = min(int(MOST * rates.size - n.sum()), size_of_round(n, undecided))
        n = np.minimum(n + raise_evenly(n, undecided, budget=budget, rng=rng), tape.shape[1] - 1)


def replicate(law: str, seed: int) -> dict[str, Looks]:
    rates, rng = drawn_rates(law, seed)
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


def curve(paths: list[Looks], caps: Array, right: int, wrong: int) -> tuple[Array, Array, Array]:
    """Mean samples, share right and share wrong when every replicate ends at its last look at or below each cap."""
    used, good, bad = [], [], []
    for cap in caps:
        ends = [next((look for look in reversed(path) if look[0] <= cap + 1e-9), path[0]) for path in paths]
        used.append(np.mean([end[0] for end in ends]))
        good.append(np.mean([end[right] for end in ends]))
        bad.append(np.mean([end[wrong] for end in ends]))
    return np.array(used), np.array(good), np.array(bad)


def first_at(used: Array, good: Array, share: float) -> float:
    """Samples at which a curve first reaches a share, on a straight line between its points; infinity where it never does."""
    reached = np.flatnonzero(good >= share - 1e-12)
    if not reached.size:
        return float("inf")
    i = int(reached[0])
    if i == 0 or good[i] == good[i - 1]:
        return float(used[i])
    return float(used[i - 1] + (used[i] - used[i - 1]) * (share - good[i - 1]) / (good[i] - good[i - 1]))


class Known:
    """Someone who knows the law: the chances of every (samples, successes) of one problem, up to a horizon."""

    def __init__(self, law: str):
        drawn = LAWS[law].draw(np.random.default_rng(0), 200_000)
        fine = np.concatenate(
            [np.linspace(0, 1, 161), [0.0005, 0.001, 0.002, 0.003, 0.0045, 0.0085, 0.012, 0.016, EPSILON, MASTERED]]
        )
        self.points = np.unique(fine)
        self.side = states(self.points)
        self.weight = np.zeros(self.points.size)
        for state in (-1, 0, 1, 2):  # every rate goes to the nearest point on its own side of the thresholds
            own, mine = np.flatnonzero(self.side == state), drawn[states(drawn) == state]
            if mine.size:
                nearest = np.searchsorted((self.points[own][1:] + self.points[own][:-1]) / 2, mine)
                np.add.at(self.weight, own[nearest], 1.0 / drawn.size)
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

    def least_alone(self, share: float) -> float:
        """The same where each problem is judged by its own samples and wrong at most `ERROR` of the time whatever its rate."""
        can = (self.side >= 0) & (self.weight > 0)
        weight = self.weight[can]
        nats = np.minimum(*(bernoulli_kl(self.points[can], edge) for edge in (EPSILON, MASTERED)))
        if share >= weight.sum():
            return float("inf")
        low, high = 0.0, 1e9  # λ
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if weight @ expit(middle * nats + logit(ERROR)) < share else (low, middle)
        named = expit(high * nats + logit(ERROR))
        return float(weight @ (bernoulli_kl(named, ERROR) / nats))


def bernoulli_kl(p: Array, q: Array | float) -> Array:
    """[P] Kullback–Leibler divergence between outcomes of rates p and q."""
    return np.asarray(rel_entr(p, q) + rel_entr(1.0 - p, 1.0 - np.asarray(q)))


def least_for_label(rates: Array) -> float:
    """Samples per problem that it takes at least to tell the label, wrong at most `ERROR` of the time whatever the rates are.

    Telling the rates from others with another label takes kl(ERROR, 1 − ERROR) nats, and a sample of problem i brings KL(p_i, p'_i) of
    them. Two kinds of others are tried, and the dearer counts: all problems move a little, each by as many nats, until the mean
    crosses `MASTERED`; or just enough problems cross epsilon, where any of those may be the ones.

    Source: Garivier and Kaufmann, arXiv 1602.04589, Theorem 1.
    """
    needed = (1 - 2 * ERROR) * np.log((1 - ERROR) / ERROR)
    up = rates.mean() < MASTERED
    low, high = 0.0, 5.0  # nats per sample at which the mean crosses
    for _ in range(40):
        nats = (low + high) / 2
        near, far = rates.copy(), np.full(rates.size, 1.0 - 1e-12 if up else 1e-12)
        for _ in range(40):
            middle = (near + far) / 2
            inside = bernoulli_kl(rates, middle) < nats
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        low, high = (low, nats) if (near.mean() >= MASTERED) == up else (nats, high)
    dearest = needed / high
    if up:
        lacking, unreliable = rates < EPSILON, (rates >= EPSILON) & (rates < MASTERED)
        gap = int(lacking.sum()) - int(unreliable.sum())
        movable, moved = (lacking, -(-gap // 2)) if gap > 0 else (unreliable, -gap // 2 + 1)
        nats = np.sort(bernoulli_kl(rates[movable], EPSILON))[::-1]
        with np.errstate(divide="ignore"):
            price = np.cumsum(1.0 / nats)
        left = moved - (nats.size - np.arange(1, nats.size + 1))
        if (left > 0).any():
            dearest = max(
                dearest,
                needed / float((left[left > 0] / price[left > 0]).max()) if np.isfinite(price[left > 0]).any() else np.inf,
            )
    return float(dearest / rates.size)


def drawn_rates(law: str, seed: int) -> tuple[Array, np.random.Generator]:
    rng = np.random.default_rng([11, seed, sorted(LAWS).index(law)])
    return LAWS[law].draw(rng, NUM_PROBLEMS), rng


def report(law: str, results: list[dict[str, Looks]]) -> list[str]:
    caps = np.unique(np.concatenate([np.geomspace(2, MOST, 40), np.asarray(FIXED, dtype=np.float64)]))
    fixed = np.array([result["fixed"] for result in results]).mean(axis=0)
    rows = []
    for what, right, wrong, ours in (("problems", 1, 2, "rounds for problems"), ("behavior", 3, 4, "rounds for the label")):
        mine = curve([r[ours] for r in results], caps, right, wrong)
        theirs = curve([r["fewest first"] for r in results], caps, right, wrong)
        target = min(float(fixed[-1, right]), float(mine[1].max()))
        cheapest = next((n for n, value in zip(fixed[:, 0], fixed[:, right], strict=True) if value >= target - 1e-12), np.inf)
        used, first = first_at(mine[0], mine[1], target), first_at(theirs[0], theirs[1], target)
        erring = float(np.interp(used, mine[0], mine[2]))
        if what == "problems":
            known = Known(law)
            bounds = [*(known.least(target, error) for error in (max(erring, 0.001), ERROR)), known.least_alone(target)]
        else:  # the replicates that take least, and nothing spent on the others
            each = np.sort([least_for_label(drawn_rates(law, seed)[0]) for seed in range(len(results))])
            bounds = [np.inf, np.inf, float(each[: round(target * each.size)].sum() / each.size)]
        against = f"{first:.0f} ({first / used:.1f}×)" if np.isfinite(first) else f"not at {MOST} ({theirs[1].max():.2f})"
        rows.append(
            f"| {law} | {what} | {target:.2f} | {used:.1f} | {MOST} ({MOST / used:.1f}×) | {cheapest:.0f} ({cheapest / used:.1f}×) | {against} | "
            f"{erring:.3f} | "
            + " | ".join(f"{least:.1f} ({MOST / least:.1f}×)" if np.isfinite(least) else "–" for least in bounds)
            + " |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/sample_efficiency.md"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--laws", nargs="*", default=list(LAWS))
    parser.add_argument("--fresh", action="store_true", help="forget the looks of earlier runs")
    arguments = parser.parse_args()
    kept: dict[str, list[dict[str, Looks]]] = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Samples that a verdict costs", "",
        f"`python tests/benchmarks/sample_efficiency.py --replicates {arguments.replicates}`: {NUM_PROBLEMS} problems, {arguments.replicates} replicates a law.", "",
        (
            "The target is the share of right verdicts that 256 samples of every problem give (or the most that rounds reach, if less). *cheapest fixed n*: the smallest of "
        "1, 2, 4, ... 256 that reaches the target. *wrong*: share wrong at the target. *told the law*: least samples of a method that is told the law, errs no more often than the rounds did (or at most .05) and has at most "
        f"{HORIZON:,} samples of one problem. *any*: for problems, the least that a method needs which judges each by its own samples and errs at most .05 of the time "
        "whatever the rate, where rounds, which borrow from the other problems, may need fewer; for labels, the least of any method which errs at most .05 of the time whatever the rates (see the script)."
        ), "",
        "| law | verdict on | target | rounds | n = 256 | cheapest fixed n | fewest successes first | wrong | told the law | told the law, 5 % wrong | any, 5 % wrong whatever the rates |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    with Pool(arguments.processes) as pool:
        for law in arguments.laws:
            key = f"{law}, {arguments.replicates} replicates"
            if key not in kept:
                kept[key] = pool.map(partial(replicate, law), range(arguments.replicates), chunksize=5)
                RESULTS.write_text(json.dumps(kept))
            rows = report(law, kept[key])
            lines += rows
            print("\n".join(rows), flush=True)
    lines += ["", *(f"- *{name}*: {LAWS[name].what}" for name in arguments.laws)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
