"""What the constants of the posterior and of the rounds change: labels on held-out distributions, one constant moved at a time.

    python benchmarks/posterior_sensitivity.py --out reports/benchmarks/posterior_sensitivity.md

Every behavior of `held_out_rates.py` (60 problems) is sampled once, with 4, 16 and 64 samples of every problem, and in rounds; each setting
labels the same samples. Wrong: labels said with .95 or more that are not the true one, of all said.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from held_out_rates import EPSILON, FAMILIES, true_label

from posttrain.analysis.stats import mixture
from posttrain.diagnose.measure.label_posterior import label_posterior
from posttrain.diagnose.sampling.plan import Goal, SampleCounts, next_round
from posttrain.diagnose.thresholds import SamplingThresholds, Thresholds

NUM_PROBLEMS, SAMPLES, MOST = 60, (4, 16, 64), 128
Setting = tuple[str, Callable[[], AbstractContextManager[object]], SamplingThresholds]
RULE = SamplingThresholds()


def constant(name: str, value: object) -> Callable[[], AbstractContextManager[object]]:
    """Return what sets a constant of the posterior."""
    return lambda: patch.object(mixture, name, value)


AS_IT_IS = constant("CONCENTRATION", mixture.CONCENTRATION)
SETTINGS: tuple[Setting, ...] = (
    ("as it is", AS_IT_IS, RULE),
    *(
        (f"base Beta{base}", constant("BASE", base), RULE)
        for base in ((0.1, 0.4), (0.4, 0.4), (0.2, 0.2), (0.2, 0.8), (0.5, 0.5))
    ),
    *((f"concentration {value}", constant("CONCENTRATION", value), RULE) for value in (0.5, 2.0, 4.0)),
    *((f"{value} clusters", constant("NUM_CLUSTERS", value), RULE) for value in (10, 40)),
    *((f"{value} sweeps before the first draw", constant("BURN_IN", value), RULE) for value in (10, 120)),
    *((f"first round of {value}", AS_IT_IS, replace(RULE, first_round=value)) for value in (4, 16)),
    *((f"rounds that grow by {value}", AS_IT_IS, replace(RULE, growth=value)) for value in (0.5, 1.0)),
    *((f"rounds that end at {value}", AS_IT_IS, replace(RULE, confidence=value)) for value in (0.97, 0.99)),
)


@dataclass
class Row:
    """Sums over behaviors."""

    said: int = 0
    wrong: int = 0
    seconds: float = 0.0
    samples: float = 0.0
    said_in_rounds: int = 0
    wrong_in_rounds: int = 0


def add(row: Row, rates: np.ndarray, table: np.ndarray, rule: SamplingThresholds, seed: int) -> None:
    """Label one behavior at every number of samples and in rounds.

    Args:
        row: Where it is added.
        rates: [P]
        table: [P, MOST + 1] successes among the first n samples.
        rule: Of the rounds.
        seed: Another one for each setting: posteriors are kept by counts and seed.
    """
    truth, sure = true_label(rates), Thresholds().confidence
    start = time.perf_counter()
    for n in SAMPLES:
        known = label_posterior(np.full(rates.size, n), table[:, n], epsilon=EPSILON, thresholds=Thresholds(), seed=seed)
        row.said += known.confidence >= sure
        row.wrong += known.confidence >= sure and known.label is not truth
    row.seconds += time.perf_counter() - start
    n = np.zeros(rates.size, dtype=np.int64)
    thresholds = Thresholds(sampling=rule)
    while True:
        c = table[np.arange(rates.size), n]
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=int(n.sum()))
        goal = Goal(max_tokens=MOST * rates.size)
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=1, thresholds=thresholds, seed=seed)
        if plan.last:
            break
        n = n + plan.extra
    known = label_posterior(n, c, epsilon=EPSILON, thresholds=thresholds, seed=seed)
    row.samples += float(n.mean())
    row.said_in_rounds += known.confidence >= sure
    row.wrong_in_rounds += known.confidence >= sure and known.label is not truth


def write(rows: dict[str, Row], behaviors: int, path: Path) -> None:
    """Write the table."""
    lines = [
        "# What the constants of the posterior change",
        "",
        (
            f"`python benchmarks/posterior_sensitivity.py --behaviors {behaviors // len(FAMILIES)}`. {behaviors} behaviors of {len(FAMILIES)} held-out families, "
            f"{NUM_PROBLEMS} problems each, the same samples for every setting; labels of {', '.join(map(str, SAMPLES))} samples of every problem, and of rounds of at most {MOST}."
        ),
        "",
        "| setting | said | wrong of those | in rounds: said | wrong of those | samples of a problem | samples per right label | ms per label |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fixed = behaviors * len(SAMPLES)
    for name, row in rows.items():
        right = row.said_in_rounds - row.wrong_in_rounds
        lines.append(
            f"| {name} | {row.said / fixed:.3f} | {row.wrong} of {row.said} | {row.said_in_rounds / behaviors:.3f} | {row.wrong_in_rounds} of {row.said_in_rounds} "
            f"| {row.samples / behaviors:.1f} | {row.samples / max(1, right):.1f} | {1e3 * row.seconds / fixed:.0f} |"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--behaviors", type=int, default=12, help="behaviors of each family")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/posterior_sensitivity.md"))
    options = parser.parse_args()
    rows = {name: Row() for name, _, _ in SETTINGS}
    for index in range(options.behaviors):
        for number, (family, make) in enumerate(FAMILIES.items()):
            rng = np.random.default_rng([77, index, number])
            rates, _ = make(rng).draw(rng, NUM_PROBLEMS)
            table = np.cumsum(rng.random((NUM_PROBLEMS, MOST + 1)) < rates[:, None], axis=1)
            table = np.concatenate([np.zeros((NUM_PROBLEMS, 1), dtype=np.int64), table[:, :MOST]], axis=1)
            for place, (name, setting, rule) in enumerate(SETTINGS):
                with setting():
                    add(rows[name], rates, table, rule, 1000 * place + index)
            print(f"\r{index + 1} of {options.behaviors}: {family:20}", end="", file=sys.stderr)
        write(rows, (index + 1) * len(FAMILIES), options.out)


if __name__ == "__main__":
    main()
