"""False alarms of a comparison where nothing changed, and its power where something did.

    python benchmarks/null_and_power.py --replicates 2000 --out reports/benchmarks/null_and_power.md

Success rates of problems are drawn from a distribution, samples from the rates, and both sides go through the functions that `posttrain compare`
uses: `problem_change_tests`, the fitted mixtures and `classify_changes` for single problems, `decide_role` for the role. One process. Rows
are cached in build/benchmarks/null_and_power.json as they finish, so that a stopped run can be resumed; `--only null` (or power, role) makes
one of the tables.

**Upper bound of the power** (`most_found`). A test that knows everything but which problems rose: the distribution of the unchanged ones,
how many rose, from 0 to which rate, and that none fell. The likelihood ratio of problem i with b successes before and a after is

    r_i = [b = 0] Binomial(a; n, .1) / ∫ Binomial(b; n, p) Binomial(a; n, p) dG(p),

it rose with probability P_i = r_i e_{m−1}(r without i) / e_m(r), with e_m the elementary symmetric polynomial of degree m. Of all rules with
a false-discovery rate E[V / max(R, 1)] of at most 5 %, the most powerful one flags in each run the k problems of largest P_i that maximize
Σ P_i − λ Σ (1 − P_i)/k, with one λ for all runs. No test that controls the false-discovery rate can find more.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.special import betaln

from posttrain.analysis.stats import (
    fit_mixture,
    k_grid,
    permutation_test,
    problem_change_tests,
    support_dynamics,
    support_dynamics_null,
)
from posttrain.diagnose.comparison.change_role import NUM_PERMUTATIONS, decide_role
from posttrain.diagnose.comparison.comparison_words import role_words
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import ProblemChange, default_epsilon

Rates = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

NUM_PROBLEMS = 200
SAMPLES = (16, 64, 256)
EPSILON = default_epsilon(8)
PRIMARY_K = 16
RISE = 0.1
THRESHOLDS = ChangeThresholds()
FALSE_DISCOVERY_RATE, ERROR = THRESHOLDS.false_discovery_rate, THRESHOLDS.role_error
RESULTS = Path(__file__).parents[1] / "build" / "benchmarks" / "null_and_power.json"
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], Rates]] = {
    "Beta(.3, 1.2)": lambda rng: rng.beta(*BASE_BETA, NUM_PROBLEMS),
    "half at 0, else Beta(.5, 1)": lambda rng: np.where(rng.random(NUM_PROBLEMS) < 0.5, 0.0, rng.beta(0.5, 1.0, NUM_PROBLEMS)),
    "Beta(2, 3)": lambda rng: rng.beta(2.0, 3.0, NUM_PROBLEMS),
    "Beta(9, 1)": lambda rng: rng.beta(9.0, 1.0, NUM_PROBLEMS),
}
MIXES = ((40, 200), (10, 200), (2, 200), (40, 40))
"""(true rises from 0 to `RISE`, problems); the others come from the first distribution and do not change."""
BASE_BETA = (0.3, 1.2)
PARTS = ("null", "power", "role")


def change_a_fifth(before: float, after: float) -> Callable[[np.random.Generator], tuple[Rates, Rates]]:
    """Return a sampler of rates in which a fifth of the problems change from one rate to another; the others do not change."""

    def draw(rng: np.random.Generator) -> tuple[Rates, Rates]:
        first = rng.beta(*BASE_BETA, NUM_PROBLEMS)
        last = first.copy()
        first[: NUM_PROBLEMS // 5], last[: NUM_PROBLEMS // 5] = before, after
        return first, last

    return draw


def in_and_out(rng: np.random.Generator) -> tuple[Rates, Rates]:
    """Draw rates of which a fifth enters support and a fifth leaves it."""
    first, last = change_a_fifth(0.0, 0.3)(rng)
    fifth = slice(NUM_PROBLEMS // 5, 2 * (NUM_PROBLEMS // 5))
    first[fifth], last[fifth] = 0.3, 0.0
    return first, last


def sharpened(rng: np.random.Generator) -> tuple[Rates, Rates]:
    """Draw rates of which those above 0.3 rise by half and those below 0.1 fall to zero: pass@1 rises and support is lost."""
    first = rng.beta(*BASE_BETA, NUM_PROBLEMS)
    return first, np.where(first > 0.3, np.minimum(1.0, 1.5 * first), np.where(first < 0.1, 0.0, first))


TRUTHS: dict[str, Callable[[np.random.Generator], tuple[Rates, Rates]]] = {
    "a fifth rises from 0 to .3": change_a_fifth(0.0, 0.3),
    "a fifth rises from 0 to .05": change_a_fifth(0.0, 0.05),
    "a fifth rises from .01 to .2": change_a_fifth(0.01, 0.2),
    "a fifth rises from .03 to .4": change_a_fifth(0.03, 0.4),
    "a fifth rises from .3 to .8": change_a_fifth(0.3, 0.8),
    "a fifth falls from .3 to 0": change_a_fifth(0.3, 0.0),
    "a fifth falls from .8 to .3": change_a_fifth(0.8, 0.3),
    "a fifth comes in (0 to .3), a fifth falls out (.3 to 0)": in_and_out,
    "rates above .3 rise by half, those below .1 fall to 0": sharpened,
}


def changes_of(n: Counts, before: Counts, after: Counts) -> list[ProblemChange]:
    """Classify the change of each problem as `posttrain compare` does."""
    tests = problem_change_tests(n, before, n, after, rate=FALSE_DISCOVERY_RATE, below=EPSILON)
    if min(tests.q_expansion.min(), tests.q_attrition.min()) > FALSE_DISCOVERY_RATE:
        return [ProblemChange.UNDETERMINED] * n.size  # nothing can be flagged, whatever the mixtures say
    reach = [fit_mixture(n, side).interval_probabilities([EPSILON])[:, 1] for side in (before, after)]
    return classify_changes(reach[0], reach[1], tests.q_expansion, tests.q_attrition, THRESHOLDS)


def ks_of(n: int) -> list[int]:
    """Return the k that `posttrain compare` tests."""
    return [k for k in k_grid(n, PRIMARY_K) if k <= n]


def null_row(distribution: str, num_samples: int, replicates: int) -> str:
    """Compare two samples of one model."""
    rng = np.random.default_rng([1, num_samples, list(DISTRIBUTIONS).index(distribution)])
    n = np.full(NUM_PROBLEMS, num_samples)
    changed, flagged, roles, naive = 0, 0, 0, 0.0
    outside = np.zeros(2)
    ratios = []
    num_roles = max(1, replicates // 4)
    for replicate in range(replicates):
        rates = DISTRIBUTIONS[distribution](rng)
        before, after = rng.binomial(n, rates), rng.binomial(n, rates)
        tests = problem_change_tests(n, before, n, after, rate=FALSE_DISCOVERY_RATE)
        changed += min(tests.q_expansion.min(), tests.q_attrition.min()) <= FALSE_DISCOVERY_RATE
        changes = changes_of(n, before, after)
        flagged += any(state in (ProblemChange.EXPANDED, ProblemChange.ATTRITED) for state in changes)
        dynamics = support_dynamics(n, before, n, after)
        ratios.append((dynamics.srr, dynamics.ndr))
        null = support_dynamics_null(n, before, n, after, rng=rng, num_draws=400)
        outside += np.array([dynamics.ndr > null.ndr.high, dynamics.srr < null.srr.low])
        naive += int(((before == 0) & (after > 0)).sum())
        if replicate < num_roles:
            shown = permutation_test(n, before, n, after, ks_of(num_samples), rng=rng, num_draws=NUM_PERMUTATIONS)
            roles += bool((shown.adjusted_p <= ERROR).any())
    srr, ndr = np.nanmean(np.array(ratios), axis=0)
    return (
        f"| {distribution} | {num_samples} | {flagged / replicates:.2%} | {changed / replicates:.2%} | {roles / num_roles:.1%} | "
        f"{outside[0] / replicates:.1%} | {outside[1] / replicates:.1%} | {naive / replicates:.1f} | {srr:.3f} | {ndr:.3f} |"
    )


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


def role_row(name: str, num_samples: int, replicates: int) -> str:
    """Decide the role where something changed."""
    rng = np.random.default_rng([3, num_samples, list(TRUTHS).index(name)])
    n = np.full(NUM_PROBLEMS, num_samples)
    words: Counter[str] = Counter()
    for _ in range(replicates):
        first, last = TRUTHS[name](rng)
        before, after = rng.binomial(n, first), rng.binomial(n, last)
        counts = PairedCounts(
            ids=tuple(map(str, range(n.size))), groups=tuple(map(str, range(n.size))), n_before=n, c_before=before, n_after=n, c_after=after,
            missing_before=np.zeros_like(n), missing_after=np.zeros_like(n), adaptive=False,
        )  # fmt: skip
        words[role_words(decide_role(counts, ks_of(num_samples), EPSILON, THRESHOLDS, rng=rng))] += 1
    shares = ", ".join(f"{word} {count / replicates:.0%}" for word, count in words.most_common())
    return f"| {name} | {num_samples} | {shares} |"


def rows_of(part: str, replicates: int) -> dict[str, Callable[[], str]]:
    """Return the function that makes each row of a table, by a name that says all that the row depends on."""
    few, fewer = max(2, replicates // 10), max(2, replicates // 40)
    rows: dict[str, Callable[[], str]] = {}
    if part == "null":
        for distribution in DISTRIBUTIONS:
            rows |= {
                f"null, {distribution}, {n}, {replicates} runs": partial(null_row, distribution, n, replicates) for n in SAMPLES
            }
    elif part == "power":
        for true, problems in MIXES:
            rows |= {f"power, {true} of {problems}, {n}, {few} runs": partial(power_row, true, problems, n, few) for n in SAMPLES}
    else:
        for truth in TRUTHS:
            rows |= {f"role, {truth}, {n}, {fewer} runs": partial(role_row, truth, n, fewer) for n in SAMPLES}
    return rows


def table(head: tuple[str, ...], rows: list[str]) -> str:
    """Format a Markdown table with right-aligned numbers."""
    return "\n".join(["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1), *rows])


def main() -> None:
    """Simulate, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=400, help="runs of one model against itself, per distribution and n")
    parser.add_argument("--only", action="append", choices=PARTS, help="make these rows and write no report")
    parser.add_argument("--fresh", action="store_true", help="discard the cached rows")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    known: dict[str, tuple[str, float]] = json.loads(RESULTS.read_text()) if RESULTS.exists() and not arguments.fresh else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {}
    seconds = 0.0
    for part in arguments.only or PARTS:
        for key, make in rows_of(part, arguments.replicates).items():
            if key not in known:
                start = time.monotonic()
                known[key] = make(), time.monotonic() - start
                RESULTS.write_text(json.dumps(known, indent=1))
                print(known[key][0], flush=True)
            rows.setdefault(part, []).append(known[key][0])
            seconds += known[key][1]
    if arguments.only:
        return
    text = report(rows, arguments.replicates, seconds)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


def report(rows: dict[str, list[str]], replicates: int, seconds: float) -> str:
    """Write the Markdown page."""
    few, fewer, num_roles = max(2, replicates // 10), max(2, replicates // 40), max(1, replicates // 4)
    error, role_error = (math.sqrt(0.05 * 0.95 / num) for num in (replicates, num_roles))
    return f"""# False alarms and power of a comparison

    python benchmarks/null_and_power.py --replicates {replicates} --out reports/benchmarks/null_and_power.md

{NUM_PROBLEMS} problems unless a row says otherwise, ε = {EPSILON:.4f}, the same number of samples n before and after. It took
{seconds / 60:.0f} minutes on one core.

## Two samples of one model

Per distribution of success rates and n, {replicates:,} runs ({num_roles:,} for the role). *Any problem flagged*: share of runs in which
at least one problem is called expanded or attrited; *any change*: in which a problem has q ≤ {FALSE_DISCOVERY_RATE} for a change of any kind, in either
direction; *any role*: in which the role is anything but "not distinguishable". All three are to be at most 5 %; the standard error of such a share is
{error:.1%} ({role_error:.1%} for the role). *NDR above* and *SRR below*: runs whose NDR, or SRR, lies beyond its 95 % null range on
that side, to be at most 2.5 %. On the right the
naive numbers of the same runs: problems called expanded because they had no success before and at least one after, and SRR and NDR, which
would be 1 and 0 for a model that did not change.

{table(("distribution", "n", "any problem flagged", "any change", "any role", "NDR above", "SRR below", "naive: expanded", "SRR", "NDR"), rows["null"])}

## True rises from 0 to {RISE:g}

Share of the true rises that are found, mean over {few} runs; the other problems are from Beta(.3, 1.2) and do not change. *Attrited*: the same
problems with the sides swapped. *At most*: what the most powerful rule finds that knows everything but which problems rose, at a
false-discovery rate of 5 % (see the script). *Plain BH*: Fisher's tests of any change under Benjamini–Hochberg for continuous
p-values. *False*: share of the problems found that did not change, mean over runs.

{table(("true rises", "n", "expanded", "attrited", "at most", "plain BH", "false", "naive: found", "naive: false"), rows["power"])}

## The role, where something changed

Share of {fewer} runs.

{table(("truth", "n", "role"), rows["role"])}
"""


if __name__ == "__main__":
    main()
