"""Time and memory of a comparison of many problems.

    python benchmarks/comparison_scale.py --problems 100000

Each case runs in a process of its own: samples are taken at random and compared by `compare_counts`, as `posttrain compare` does once the runs are
read. Every problem is a group of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import replace

import numpy as np

from posttrain.analysis.stats import thin
from posttrain.diagnose.comparison.compare_behavior import ComparisonOptions, compare_counts
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import MeasureSettings, default_epsilon

CASES = ("16 samples each", "4 to 64 samples, adaptive")


def measure_case(case: str, num_problems: int) -> str:
    """Return the row of one case."""
    rng = np.random.default_rng(0)
    first = rng.beta(0.3, 1.2, num_problems)
    last = np.minimum(1.0, first + 0.1 * (rng.random(num_problems) < 0.3))
    adaptive = case == CASES[1]
    n0, n1 = rng.integers(4, 65, (2, num_problems)) if adaptive else np.full((2, num_problems), 16)
    ids, none = tuple(f"problem-{i}" for i in range(num_problems)), np.zeros(num_problems, dtype=np.int64)
    counts = PairedCounts(
        ids=ids, groups=ids, n_before=n0, c_before=rng.binomial(n0, first), n_after=n1, c_after=rng.binomial(n1, last),
        missing_before=none, missing_after=none, adaptive=adaptive,
    )  # fmt: skip
    fewest = np.full(num_problems, int(min(n0.min(), n1.min())))
    few = replace(
        counts, n_before=fewest, c_before=thin(n0, counts.c_before, fewest, rng=rng),
        n_after=fewest, c_after=thin(n1, counts.c_after, fewest, rng=rng),
    )  # fmt: skip
    measure = MeasureSettings(primary_k=16, epsilon=default_epsilon(8))
    options = ComparisonOptions(margin=0.05, trained=frozenset(), stage=None, thresholds=ChangeThresholds())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    compare_counts("scale", counts, few, measure, options)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"| {case} | {num_problems:,} | {seconds:.1f} | {peak / 1024:.0f} | {before / 1024:.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=100_000)
    arguments = parser.parse_args()
    print(
        "| case | problems | CPU seconds | peak MiB of the process | MiB before the comparison |\n| --- | ---: | ---: | ---: | ---: |"
    )
    context = multiprocessing.get_context("spawn")
    for case in CASES:
        with context.Pool(1) as pool:
            print(pool.apply(measure_case, (case, arguments.problems)), flush=True)


if __name__ == "__main__":
    main()
