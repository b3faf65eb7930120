"""Does the forecast of groups without signal come true, on difficulty distributions that nothing was tuned on?

    python benchmarks/group_signal.py                 # about ten minutes on one core
    python benchmarks/group_signal.py --quick         # under a minute, printed and not written

A run takes a behavior of `held_out_rates.py`, samples its problems n times, and forecasts the share of groups without signal at several group sizes, by cause.
Then as many groups as `GROUPS` are sampled of *other* problems of the same population, as a trainer would, and the share among them is counted. The 95 % interval
of the forecast should hold it in 95 % of runs. Some wrong samples are right under the lenient reading, are truncated, or
cannot be read, by rates that differ between problems. Writes reports/benchmarks/group_signal.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from held_out_rates import FAMILIES, LATTICE, HeldOutBehavior

from posttrain.analysis.stats import GroupOutcomes, GroupSignal, NoSignal

PAGE = Path(__file__).parents[1] / "reports" / "benchmarks" / "group_signal.md"
CELLS = ((20, 16), (60, 8), (60, 16), (300, 16), (60, 64))
"""Problems and samples of each."""
SIZES = (2, 8, 16, 64)
GROUPS = 20_000
RUNS = 40
"""Of each family and cell."""
TOTAL = "all"
RIGHT, LENIENT, TRUNCATED, UNREAD, WRONG, MISSING = range(6)
Array = np.ndarray


def failure_kinds(rng: np.random.Generator) -> Array:
    """Return [4] the relative frequency of kinds of wrong samples of a behavior: right under the lenient reading, truncated, unread, wrong."""
    present = rng.random(3) < 0.5
    return np.append(np.where(present, rng.uniform(0.05, 0.5, 3), 0.0), 1.0)


def chances(rng: np.random.Generator, rates: Array, means: Array, missing: float) -> Array:
    """Return [P, 6] the chance of each kind of sample of problems with these success rates."""
    weights = rng.gamma(np.maximum(4.0 * means, 1e-12), 1.0, (len(rates), 4)) + 1e-12
    failed = weights / weights.sum(axis=1, keepdims=True) * (1.0 - rates[:, None])
    graded = np.concatenate([rates[:, None], failed], axis=1)
    return np.concatenate([graded * (1.0 - missing), np.full((len(rates), 1), missing)], axis=1)


def observe(counts: Array, groups: tuple[str, ...] | None) -> GroupOutcomes:
    """Return what a run knows of [P, 6] counted samples."""
    graded = counts[:, :MISSING].sum(axis=1)
    return GroupOutcomes(
        num_samples=graded,
        num_correct=counts[:, RIGHT],
        num_lenient=counts[:, RIGHT] + counts[:, LENIENT],
        num_truncated=counts[:, TRUNCATED],
        num_unread=counts[:, UNREAD],
        num_missing=counts[:, MISSING],
        groups=groups or tuple(map(str, range(len(counts)))),
        equally=True,
    )


def realised(rng: np.random.Generator, rates: Array, means: Array, missing: float, size: int) -> dict[str, float]:
    """Sample groups of fresh problems, and count those without signal, by cause."""
    kinds = chances(rng, rng.permutation(rates)[np.arange(GROUPS) % len(rates)], means, missing)
    counts = rng.multinomial(size, kinds)
    graded = counts[:, :MISSING].sum(axis=1)
    dead = (counts[:, RIGHT] == 0) | (counts[:, RIGHT] == graded)
    # Whether a group would have a signal with all its grades: missing samples are of the kinds of the graded ones.
    whole = counts + rng.multinomial(
        counts[:, MISSING], kinds[:, :MISSING] / kinds[:, :MISSING].sum(axis=1, keepdims=True)
    ) @ np.eye(5, 6)
    right, failed = whole[:, RIGHT], size - whole[:, RIGHT]
    hard, read = right == 0, whole[:, LENIENT] == 0
    share = whole / np.maximum(failed, 1)[:, None] * (hard & read)[:, None]
    return {
        TOTAL: float(dead.mean()),
        NoSignal.MISSING_GRADE: float((dead & ~hard & (failed > 0)).mean()),
        NoSignal.FORMAT: float((hard & ~read).mean()),
        NoSignal.TRUNCATED: float(share[:, TRUNCATED].mean()),
        NoSignal.UNREAD: float(share[:, UNREAD].mean()),
        NoSignal.TOO_HARD: float(share[:, WRONG].mean()),
        NoSignal.TOO_EASY: float((failed == 0).mean()),
    }


def one_run(family: str, num_problems: int, n: int, seed: int) -> list[tuple[int, str, float, float, float, float]]:
    """Forecast and count. Returns rows of size, cause, estimate, low, high, realised."""
    rng = np.random.default_rng([seed, num_problems, n, list(FAMILIES).index(family)])
    behavior: HeldOutBehavior = FAMILIES[family](rng)
    means, missing = failure_kinds(rng), float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0.01, 0.2)]))
    rates, groups = behavior.draw(rng, num_problems)
    population = behavior.population
    assert len(population) == LATTICE
    counts = rng.multinomial(n, chances(rng, rates, means, missing))
    if not counts[:, :MISSING].any():
        return []
    signal, rows = GroupSignal(observe(counts, groups), seed=seed), []
    for size in SIZES:
        found, truth = signal.share(size), realised(rng, population, means, missing, size)
        for name, interval in ((TOTAL, found.total), *found.causes.items()):
            rows.append((size, str(name), interval.estimate, interval.low, interval.high, truth[name]))
    return rows


def main() -> None:
    """Run all cells; print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two runs of a family in one cell, printed and not written")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    cells, runs = ((CELLS[2],), 2) if options.quick else (CELLS, options.runs)
    start, rows = time.process_time(), defaultdict(list)
    for cell in cells:
        for family in FAMILIES:
            for seed in range(runs):
                for size, name, *numbers in one_run(family, *cell, seed):
                    rows[(*cell, size, name)].append(numbers)
    text = page(rows, runs, time.process_time() - start)
    if options.quick:
        print(text)
    else:
        PAGE.write_text(text)


def page(rows: dict[tuple[int, int, int, str], list[list[float]]], runs: int, seconds: float) -> str:
    """Return the page: coverage, mean width and mean absolute error."""
    lines = [
        "# Groups without signal: forecast against count",
        "",
        f"Written by `python benchmarks/group_signal.py` ({runs} runs of each of {len(FAMILIES)} families and cell, {seconds:.0f} s of one core).",
        "Coverage: share of runs in which the 95 % interval holds the share counted in fresh groups; width: of the interval, on average; error: mean",
        "distance of the estimate, where there is one. `by cause`: coverage of the parts; the cause that is covered least often is named.",
        "",
        "| problems | samples | group size | coverage | width | error | too hard | too easy | by cause | least |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    every = []
    for problems, samples, size, name in rows:
        if name != TOTAL:
            continue
        covered, width, error = summary(rows[problems, samples, size, TOTAL])
        every += [covered] * len(rows[problems, samples, size, TOTAL])
        parts = {cause: summary(rows[problems, samples, size, cause])[0] for cause in NoSignal}
        least = min(parts, key=parts.__getitem__)
        lines.append(
            f"| {problems} | {samples} | {size} | {covered:.3f} | {width:.3f} | {error:.3f} | {parts[NoSignal.TOO_HARD]:.3f} "
            f"| {parts[NoSignal.TOO_EASY]:.3f} | {np.mean(list(parts.values())):.3f} | {least} {parts[least]:.3f} |"
        )
    lines += ["", f"All cells together: {np.mean(every):.3f} of {len(every)} intervals.", ""]
    return "\n".join(lines)


def summary(numbers: list[list[float]]) -> tuple[float, float, float]:
    """Return coverage, mean width, and mean error of estimates."""
    estimate, low, high, truth = np.array(numbers).T
    # The count itself is known to a few thousandths only.
    noise = 2.0 * np.sqrt(np.maximum(truth * (1 - truth), 1 / GROUPS) / GROUPS)
    covered = (low - noise <= truth) & (truth <= high + noise)
    return float(covered.mean()), float((high - low).mean()), float(np.nanmean(np.abs(estimate - truth)))


if __name__ == "__main__":
    main()
