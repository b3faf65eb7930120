"""How often adaptive sampling ends with a wrong label where the label is borderline.

    python benchmarks/borderline_labels.py --out reports/benchmarks/borderline_labels.md

Each behavior has fixed success rates: as many problems out of support as within (or one more), all rates at or near epsilon, a mean at
`mastered`. Rounds of samples are followed by interim analyses until the label is decided or `CAP` samples per problem are used. Where all
rates, or their mean, lie exactly at a threshold there is no correct label, and every label counts as wrong.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from distributions import EPSILON, Array, true_label

from posttrain.diagnose.measure.label_posterior import label_posterior
from posttrain.diagnose.sampling.plan import Goal, SampleCounts, next_round
from posttrain.diagnose.thresholds import Thresholds

CAP = 128
PROBLEMS = (10, 50)
THRESHOLDS = Thresholds()


def point_masses(*masses: tuple[float, int]) -> Array:
    """Make [P] success rates from (rate, number of problems) pairs."""
    return np.concatenate([np.full(number, rate) for rate, number in masses])


BEHAVIORS: dict[str, Callable[[int], Array]] = {
    "one more at 0 than at .4": lambda p: point_masses((0.0, p // 2 + 1), (0.4, p // 2 - 1)),
    "half at 0, half at .02": lambda p: point_masses((0.0, p // 2), (0.02, p // 2)),
    "two more at 0 than at .4, the rest at .97": lambda p: point_masses(
        (0.0, p // 3 + 2), (0.4, p // 3), (0.97, p - 2 * (p // 3) - 2)
    ),
    "two more at 0 than at .2, the rest at .92": lambda p: point_masses(
        (0.0, p // 3 + 2), (0.2, p // 3), (0.92, p - 2 * (p // 3) - 2)
    ),
    "all at epsilon": lambda p: point_masses((EPSILON, p)),
    "all at 1.25 epsilon": lambda p: point_masses((1.25 * EPSILON, p)),
    "even in log rate about epsilon": lambda p: np.geomspace(EPSILON**2 / 0.3, 0.3, p),
    "all at .895": lambda p: point_masses((0.895, p)),
}


def label_of(rates: Array) -> str:
    """Return the true label, or `none` where all rates lie exactly at a threshold."""
    return "none" if np.all(rates == EPSILON) else true_label(rates).value


def replicate(rates: Array, seed: int) -> tuple[float, float, float]:
    """Return the samples per problem, whether a label is decided, and whether it is wrong."""
    rng = np.random.default_rng([13, seed, rates.size])
    n = np.zeros(rates.size, dtype=np.int64)
    c = n.copy()
    goal = Goal(max_tokens=CAP * rates.size)
    while True:
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()))
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=1, thresholds=THRESHOLDS, seed=seed)
        if plan.last:
            break
        n, c = n + plan.extra, c + rng.binomial(plan.extra, rates)
    known = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=seed)
    named = known.confidence >= THRESHOLDS.confidence
    return float(n.mean()), float(named), float(named and known.label.value != label_of(rates))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/borderline_labels.md"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    lines = [
        "# Borderline labels", "",
        (
            f"`python benchmarks/borderline_labels.py --replicates {arguments.replicates}`: fixed success rates, {arguments.replicates} replicates; rounds until the label is decided, or {CAP} "
            "samples per problem on average. Where all rates lie exactly at a threshold no label is correct. The Monte-Carlo error of a rate of 0.05 is "
            f"{np.sqrt(0.05 * 0.95 / arguments.replicates):.3f}."
        ), "",
        "| behavior | problems | label | samples | decided correctly | decided wrongly |",
        "|---|--:|---|--:|--:|--:|",
    ]  # fmt: skip
    with Pool(arguments.processes) as pool:
        for name, make in BEHAVIORS.items():
            for num_problems in PROBLEMS:
                rates = make(num_problems)
                rows = np.array(pool.map(partial(replicate, rates), range(arguments.replicates), chunksize=10))
                used, named, wrong = rows.mean(axis=0)
                lines.append(f"| {name} | {num_problems} | {label_of(rates)} | {used:.0f} | {named - wrong:.3f} | {wrong:.3f} |")
                print(lines[-1], flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
