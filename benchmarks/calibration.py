"""Calibration of `confidence`: labels of simulated behaviors against the truth.

    python benchmarks/calibration.py --out reports/benchmarks/calibration.md

Random for each behavior: the distribution of its success rates (a beta of random mean and spread, with or without impossible and mastered
problems, a log-uniform distribution, or one of the fixed distributions of `distributions.py`), the number of problems (10, 24, 50 or 200)
and of samples (4, 8, 16 or 64). The labels of a zero-inflated beta-binomial fitted by maximum likelihood (`fit_mixture_ml`) stand beside
those of the nonparametric mixture.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # for helpers

import numpy as np
from distributions import (
    DISTRIBUTIONS,
    EPSILON,
    MASTERED,
    RateDistribution,
    at,
    beta,
    log_uniform,
    true_label,
    true_problem_labels,
)
from helpers.mixture_ml import fit_mixture_ml
from scipy.special import betaln

from posttrain.diagnose.measure.label_posterior import PROBLEM_LABELS, label_posterior, labels_of, problem_labels
from posttrain.diagnose.thresholds import Thresholds

EDGES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
THRESHOLDS = Thresholds()


def random_distribution(rng: np.random.Generator) -> RateDistribution:
    """Draw a distribution at random."""
    if rng.random() < 0.3:
        return list(DISTRIBUTIONS.values())[rng.integers(len(DISTRIBUTIONS))]
    mean = (
        rng.uniform(0.02, 0.98) if rng.random() < 0.7 else rng.choice([rng.uniform(0.85, 0.95), np.exp(rng.uniform(-6.9, -3.0))])
    )
    size = np.exp(rng.normal(np.log(2), 1.2))
    spread = beta(mean * size, (1 - mean) * size)
    zero, one = rng.beta(1, 2), rng.beta(1, 3)
    kind = rng.integers(4)
    if kind == 0:
        return RateDistribution("", ((1, spread),))
    if kind == 1:
        return RateDistribution("", ((zero, at(0.0)), (1 - zero, spread)))
    if kind == 2:
        return RateDistribution(
            "", ((zero, at(0.0)), (one * (1 - zero), at(rng.uniform(0.9, 1))), ((1 - one) * (1 - zero), spread))
        )
    return RateDistribution("", ((zero, at(0.0)), (1 - zero, log_uniform(1e-4, 1.0))))


def beta_confidence(n: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> tuple[float, int]:
    """Return confidence and label under the fitted zero-inflated beta-binomial."""
    fit = fit_mixture_ml(n, c)
    marginal = np.exp(betaln(fit.alpha + c, fit.beta + n - c) - betaln(fit.alpha, fit.beta))
    zero = np.where(c == 0, fit.zero_share / (fit.zero_share + (1 - fit.zero_share) * marginal), 0.0)
    drawn = rng.beta(fit.alpha + c, fit.beta + n - c, (512, n.size))
    drawn = np.where(rng.random(drawn.shape) < zero, 0.0, drawn)
    below, above = (drawn < EPSILON).sum(axis=1), (drawn >= MASTERED).sum(axis=1)
    labels = labels_of(np.stack([below, n.size - below - above, above], axis=1), drawn.mean(axis=1), MASTERED)
    shares = np.bincount(labels, minlength=3) / 512
    return float(shares.max()), int(shares.argmax())


def replicate(seed: int) -> tuple[float, bool, float, bool, int, int, float, float]:
    rng = np.random.default_rng([7, seed])
    distribution = random_distribution(rng)
    num_problems, samples = int(rng.choice([10, 24, 50, 200])), int(rng.choice([4, 8, 16, 64]))
    rates = distribution.draw(rng, num_problems)
    n = np.full(num_problems, samples)
    c = rng.binomial(n, rates)
    known = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=seed)
    truth = true_label(rates)
    other, other_label = beta_confidence(n, c, rng)
    inside = known.mixture.interval_probabilities([EPSILON, MASTERED], strict=True)
    named = problem_labels(inside, THRESHOLDS)
    sure = named >= 0
    wrong = sure & (named != true_problem_labels(rates))
    return (
        known.confidence, known.label is truth, other, PROBLEM_LABELS[other_label] is truth, num_problems, samples, float(sure.mean()), float(wrong.mean()),
    )  # fmt: skip


def table(rows: np.ndarray, command: str) -> str:
    lines = [
        "# Calibration of `confidence`", "", f"`{command}`: {len(rows):,} simulated behaviors.", "",
        "| confidence | behaviors | mean confidence | share correct | difference | beta-binomial: behaviors | mean confidence | share correct | difference |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    gaps = []
    for low, high in pairwise(EDGES):
        cells = []
        for column in (0, 2):
            confidence, right = rows[:, column], rows[:, column + 1]
            inside = (confidence >= low) & ((confidence < high) | (high == 1.0))
            gap = float(right[inside].mean() - confidence[inside].mean()) if inside.any() else 0.0
            cells += (
                [f"{inside.sum():,}", f"{confidence[inside].mean():.3f}", f"{right[inside].mean():.3f}", f"{gap:+.3f}"]
                if inside.any()
                else ["0", "–", "–", "–"]
            )
            gaps += [abs(gap)] if column == 0 else []
        lines.append(f"| {low:g} to {high:g} | " + " | ".join(cells) + " |")
    worst = max(gaps)
    sure = rows[:, 0] >= THRESHOLDS.confidence
    lines += [
        "",
        (
            f"Largest difference from the diagonal: {worst:.3f}. Labels with a confidence of {THRESHOLDS.confidence:g} or more: {sure.mean():.0%} of behaviors, "
            f"{1 - rows[sure, 1].mean():.3f} of them wrong. Labels of single problems: {rows[:, 6].mean():.0%} decided, {rows[:, 7].mean():.4f} wrong."
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/calibration.md"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    with Pool(arguments.processes) as pool:
        rows = np.array(pool.map(replicate, range(arguments.replicates), chunksize=50), dtype=np.float64)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(table(rows, f"python benchmarks/calibration.py --replicates {arguments.replicates}"))
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
