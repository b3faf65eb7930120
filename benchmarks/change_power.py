"""The power of a comparison: of true rises from 0 to 0.1, how many are found, and how many could be.

    python benchmarks/change_power.py

Success rates of problems are drawn from a distribution, samples from the rates, and both sides go through `problem_change_tests`, the fitted
mixtures and `classify_changes`, as in `posttrain compare`. One process, a few minutes. How often something is found where nothing changed, and the roles, stand in
`held_out_statistics.py`.

**Upper bound of the power** (`most_found`). A test that knows everything but which problems rose: the distribution of the unchanged ones,
how many rose, from 0 to which rate, and that none fell. The likelihood ratio of problem i with b successes before and a after is

    r_i = [b = 0] Binomial(a; n, .1) / ∫ Binomial(b; n, p) Binomial(a; n, p) dG(p),

it rose with probability P_i = r_i e_{m−1}(r without i) / e_m(r), with e_m the elementary symmetric polynomial of degree m. Of all rules with
a false-discovery rate E[V / max(R, 1)] of at most 5 %, the most powerful one flags in each run the k problems of largest P_i that maximize
Σ P_i − λ Σ (1 − P_i)/k, with one λ for all runs. No test that controls the false-discovery rate can find more.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import betaln

from posttrain.analysis.stats import fit_mixture, problem_change_tests
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import ProblemChange, default_epsilon

Rates = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

SAMPLES = (16, 64, 256)
EPSILON = default_epsilon(8)
RISE = 0.1
THRESHOLDS = ChangeThresholds()
FALSE_DISCOVERY_RATE = THRESHOLDS.false_discovery_rate
MIXES = ((40, 200), (10, 200), (2, 200), (40, 40))
"""(true rises from 0 to `RISE`, problems); the others come from Beta(`BASE_BETA`) and do not change."""
BASE_BETA = (0.3, 1.2)


def changes_of(n: Counts, before: Counts, after: Counts) -> list[ProblemChange]:
    """Classify the change of each problem as `posttrain compare` does."""
    tests = problem_change_tests(n, before, n, after, rate=FALSE_DISCOVERY_RATE, below=EPSILON)
    if min(tests.q_expansion.min(), tests.q_attrition.min()) > FALSE_DISCOVERY_RATE:
        return [ProblemChange.UNDETERMINED] * n.size  # nothing can be flagged, whatever the mixtures say
    reach = [fit_mixture(n, side).interval_probabilities([EPSILON])[:, 1] for side in (before, after)]
    return classify_changes(reach[0], reach[1], tests.q_expansion, tests.q_attrition, THRESHOLDS)


def power_row(num_true: int, num_problems: int, num_samples: int, replicates: int) -> str:
    """Detect true rises among problems that do not change."""
    rng = np.random.default_rng([2, num_samples, num_true, num_problems])
    n = np.full(num_problems, num_samples)
    found = {"expanded": 0.0, "attrited": 0.0, "plain": 0.0, "naive": 0.0}
    false_found, false_naive = 0.0, 0.0
    risen = []
    for _ in range(replicates):
        low = rng.beta(*BASE_BETA, num_problems)
        low[:num_true] = 0.0
        high = low.copy()
        high[:num_true] = RISE
        before, after = rng.binomial(n, low), rng.binomial(n, high)
        changes = np.array(changes_of(n, before, after))
        expanded = changes == ProblemChange.EXPANDED
        found["expanded"] += expanded[:num_true].mean()
        wrong = int(expanded[num_true:].sum() + (changes == ProblemChange.ATTRITED).sum())
        false_found += wrong / max(1, wrong + int(expanded[:num_true].sum()))
        back = np.array(changes_of(n, after, before))
        found["attrited"] += (back[:num_true] == ProblemChange.ATTRITED).mean()
        naive = (before == 0) & (after > 0)
        found["naive"] += naive[:num_true].mean()
        false_naive += naive[num_true:].sum() / max(1, naive.sum())
        tests = problem_change_tests(n, before, n, after)
        plain = stats.false_discovery_control(np.concatenate([tests.p_expansion, tests.p_attrition]))
        found["plain"] += (plain[:num_true] <= FALSE_DISCOVERY_RATE).mean()
        risen.append(chances_of_having_risen(num_samples, before, after, num_true))
    share = {key: value / replicates for key, value in found.items()}
    return (
        f"| {num_true} of {num_problems} | {num_samples} | {share['expanded']:.0%} | {share['attrited']:.0%} | "
        f"{most_found(risen, num_true):.0%} | {share['plain']:.0%} | {false_found / replicates:.1%} | {share['naive']:.0%} | "
        f"{false_naive / replicates:.0%} |"
    )


def chances_of_having_risen(n: int, before: Counts, after: Counts, num_true: int) -> Rates:
    """[P] posterior probability of each problem to be among the `num_true` that rose, for someone who is told the rest; falling."""
    total, (a, b) = before + after, BASE_BETA
    log_same = betaln(a + total, b + 2 * n - total) - betaln(a, b) + np.log(stats.binom(n, 0.5).pmf(before) * 2.0**n)
    log_odds = np.where(before == 0, after * np.log(RISE) + (n - after) * np.log1p(-RISE), -np.inf) - log_same
    log_odds = np.sort(log_odds)[::-1]
    odds = np.exp(log_odds - log_odds[:num_true].mean())  # only ratios matter
    ahead, behind = (np.zeros((odds.size + 1, num_true)) for _ in range(2))
    ahead[0, 0] = behind[-1, 0] = 1.0
    for i, one in enumerate(odds):  # polynomials in x: the product of 1 + r x over the problems up to here
        ahead[i + 1] = ahead[i] + one * np.concatenate([[0.0], ahead[i, :-1]])
        other = odds.size - 1 - i
        behind[other] = behind[other + 1] + odds[other] * np.concatenate([[0.0], behind[other + 1, :-1]])
    without = (ahead[:-1] * behind[1:, ::-1]).sum(axis=1)  # e_{m−1} of all but i
    weight = odds * without
    return np.asarray(num_true * weight / weight.sum())


def most_found(risen: list[Rates], num_true: int) -> float:
    """Share of the true rises that the best rule finds whose mean false share over runs is 5 %."""
    chance = np.stack(risen)
    right = np.concatenate([np.zeros((len(chance), 1)), np.cumsum(chance, axis=1)], axis=1)
    false = np.concatenate([np.zeros((len(chance), 1)), 1.0 - right[:, 1:] / np.arange(1, chance.shape[1] + 1)], axis=1)
    runs = np.arange(len(chance))
    points = []
    for price in np.geomspace(1e-3, 1e4, 400):
        kept = np.argmax(right - price * false, axis=1)
        points.append((false[runs, kept].mean(), right[runs, kept].mean() / num_true))
    errors, found = np.array(sorted(points)).T
    return float(np.interp(FALSE_DISCOVERY_RATE, errors, found))


def table(head: tuple[str, ...], rows: list[str]) -> str:
    """Format a Markdown table with right-aligned numbers."""
    return "\n".join(["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1), *rows])


def main() -> None:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=100, help="runs of a row")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/change_power.md"))
    arguments = parser.parse_args()
    start, rows = time.monotonic(), []
    for true, problems in MIXES:
        for n in SAMPLES:
            rows.append(power_row(true, problems, n, arguments.replicates))
            print(rows[-1], flush=True)
    head = ("true rises", "n", "expanded", "attrited", "at most", "plain BH", "false", "naive: found", "naive: false")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(f"""# Power of a comparison

    python benchmarks/change_power.py --replicates {arguments.replicates}

ε = {EPSILON:.4f}, the same number of samples n before and after. It took {(time.monotonic() - start) / 60:.0f} minutes on one core.

Share of the true rises from 0 to {RISE:g} that are found, mean over {arguments.replicates} runs; the other problems are from Beta(.3, 1.2) and do not change. *Attrited*: the same
problems with the sides swapped. *At most*: what the most powerful rule finds that knows everything but which problems rose, at a
false-discovery rate of 5 % (see the script). *Plain BH*: Fisher's tests of any change under Benjamini–Hochberg for continuous
p-values. *False*: share of the problems found that did not change, mean over runs. *Naive*: problems without a success before and with one after.

{table(head, rows)}
""")


if __name__ == "__main__":
    main()
