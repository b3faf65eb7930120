"""What a comparison claims where nothing changed, and what it finds where something did.

    python tests/benchmarks/null_and_power.py --replicates 2000 --out reports/benchmarks/null_and_power.md

Success rates of problems are drawn from a law, samples from the rates, and both sides go through the functions that `posttrain compare`
uses: `problem_change_tests`, the fitted mixtures and `problem_states` for single problems, `decide_role` for the role. One process; the
defaults take some minutes.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from posttrain.analysis.stats import exchange_test, fit_mixture, k_grid, problem_change_tests, support_dynamics
from posttrain.diagnose.role import DEALS, ERROR, FALSE_DISCOVERY_RATE, decide_role, problem_states
from posttrain.diagnose.types import ProblemChange, default_epsilon

Rates = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

NUM_PROBLEMS = 200
SAMPLES = (16, 64, 256)
EPSILON = default_epsilon(8)
PRIMARY_K = 16
RISE = 0.1
LAWS: dict[str, Callable[[np.random.Generator], Rates]] = {
    "Beta(.3, 1.2)": lambda rng: rng.beta(0.3, 1.2, NUM_PROBLEMS),
    "half at 0, else Beta(.5, 1)": lambda rng: np.where(rng.random(NUM_PROBLEMS) < 0.5, 0.0, rng.beta(0.5, 1.0, NUM_PROBLEMS)),
    "Beta(2, 3)": lambda rng: rng.beta(2.0, 3.0, NUM_PROBLEMS),
    "Beta(9, 1)": lambda rng: rng.beta(9.0, 1.0, NUM_PROBLEMS),
}
MIXES = ((40, 200), (10, 200), (2, 200), (40, 40))
"""(true rises from 0 to `RISE`, problems), the others from the first law and unchanged."""


def change_a_fifth(before: float, after: float) -> Callable[[np.random.Generator], tuple[Rates, Rates]]:
    """A fifth of the problems change from one rate to another; the others come from the first law and stay."""

    def draw(rng: np.random.Generator) -> tuple[Rates, Rates]:
        first = rng.beta(0.3, 1.2, NUM_PROBLEMS)
        last = first.copy()
        first[: NUM_PROBLEMS // 5], last[: NUM_PROBLEMS // 5] = before, after
        return first, last

    return draw


def in_and_out(rng: np.random.Generator) -> tuple[Rates, Rates]:
    """A fifth comes in, a fifth falls out."""
    first, last = change_a_fifth(0.0, 0.3)(rng)
    fifth = slice(NUM_PROBLEMS // 5, 2 * (NUM_PROBLEMS // 5))
    first[fifth], last[fifth] = 0.3, 0.0
    return first, last


def sharpened(rng: np.random.Generator) -> tuple[Rates, Rates]:
    """Rates above .3 rise by half, those below .1 fall to zero: pass@1 rises and support is lost."""
    first = rng.beta(0.3, 1.2, NUM_PROBLEMS)
    return first, np.where(first > 0.3, np.minimum(1.0, 1.5 * first), np.where(first < 0.1, 0.0, first))


TRUTHS: dict[str, Callable[[np.random.Generator], tuple[Rates, Rates]]] = {
    "a fifth rises from 0 to .3": change_a_fifth(0.0, 0.3),
    "a fifth rises from 0 to .05": change_a_fifth(0.0, 0.05),
    "a fifth rises from .03 to .4": change_a_fifth(0.03, 0.4),
    "a fifth rises from .3 to .8": change_a_fifth(0.3, 0.8),
    "a fifth falls from .3 to 0": change_a_fifth(0.3, 0.0),
    "a fifth falls from .8 to .3": change_a_fifth(0.8, 0.3),
    "a fifth comes in (0 to .3), a fifth falls out (.3 to 0)": in_and_out,
    "rates above .3 rise by half, those below .1 fall to 0": sharpened,
}


def states_of(n: Counts, before: Counts, after: Counts) -> list[ProblemChange]:
    """The states of single problems, as `posttrain compare` gives them."""
    tests = problem_change_tests(n, before, n, after, rate=FALSE_DISCOVERY_RATE)
    if min(tests.q_expansion.min(), tests.q_attrition.min()) > FALSE_DISCOVERY_RATE:
        return [ProblemChange.UNDETERMINED] * n.size  # nothing can be flagged, whatever the mixtures say
    reach = [fit_mixture(n, side, marks=[EPSILON]).state_probabilities([EPSILON])[:, 1] for side in (before, after)]
    return problem_states(reach[0], reach[1], tests.q_expansion, tests.q_attrition)


def ks_of(n: int) -> list[int]:
    """The k that `posttrain compare` looks at."""
    return [k for k in k_grid(n, PRIMARY_K) if k <= n]


def null_rows(replicates: int) -> list[str]:
    """One model drawn twice, per law and n."""
    rows = []
    for law, draw in LAWS.items():
        for num_samples in SAMPLES:
            rng = np.random.default_rng([1, num_samples, len(rows)])
            n = np.full(NUM_PROBLEMS, num_samples)
            changed, flagged, roles, naive = 0, 0, 0, 0.0
            ratios = []
            num_roles = max(1, replicates // 4)
            for replicate in range(replicates):
                rates = draw(rng)
                before, after = rng.binomial(n, rates), rng.binomial(n, rates)
                tests = problem_change_tests(n, before, n, after, rate=FALSE_DISCOVERY_RATE)
                changed += min(tests.q_expansion.min(), tests.q_attrition.min()) <= FALSE_DISCOVERY_RATE
                states = states_of(n, before, after)
                flagged += any(state in (ProblemChange.EXPANDED, ProblemChange.ATTRITED) for state in states)
                dynamics = support_dynamics(n, before, n, after)
                ratios.append((dynamics.srr, dynamics.ndr))
                naive += dynamics.expanded
                if replicate < num_roles:
                    shown = exchange_test(n, before, n, after, ks_of(num_samples), rng=rng, num_draws=DEALS)
                    roles += bool((shown.adjusted_p <= ERROR).any())
            srr, ndr = np.nanmean(np.array(ratios), axis=0)
            rows.append(
                f"| {law} | {num_samples} | {flagged / replicates:.2%} | {changed / replicates:.2%} | {roles / num_roles:.1%} | "
                f"{naive / replicates:.1f} | {srr:.3f} | {ndr:.3f} |"
            )
            print(rows[-1], flush=True)
    return rows


def power_rows(replicates: int) -> list[str]:
    """True rises among problems that stay."""
    rows = []
    for num_true, num_problems in MIXES:
        for num_samples in SAMPLES:
            rng = np.random.default_rng([2, num_samples, num_true, num_problems])
            n = np.full(num_problems, num_samples)
            found = {"expanded": 0.0, "attrited": 0.0, "plain": 0.0, "naive": 0.0}
            false_found, false_naive, total_found = 0.0, 0.0, 0.0
            for _ in range(replicates):
                low = rng.beta(0.3, 1.2, num_problems)
                low[:num_true] = 0.0
                high = low.copy()
                high[:num_true] = RISE
                before, after = rng.binomial(n, low), rng.binomial(n, high)
                states = np.array(states_of(n, before, after))
                expanded = states == ProblemChange.EXPANDED
                found["expanded"] += expanded[:num_true].mean()
                wrong = int(expanded[num_true:].sum() + (states == ProblemChange.ATTRITED).sum())
                false_found += wrong / max(1, wrong + int(expanded[:num_true].sum()))
                total_found += expanded.sum()
                back = np.array(states_of(n, after, before))
                found["attrited"] += (back[:num_true] == ProblemChange.ATTRITED).mean()
                naive = (before == 0) & (after > 0)
                found["naive"] += naive[:num_true].mean()
                false_naive += naive[num_true:].sum() / max(1, naive.sum())
                tests = problem_change_tests(n, before, n, after)
                plain = stats.false_discovery_control(np.concatenate([tests.p_expansion, tests.p_attrition]))
                found["plain"] += (plain[:num_true] <= FALSE_DISCOVERY_RATE).mean()
            share = {key: value / replicates for key, value in found.items()}
            rows.append(
                f"| {num_true} of {num_problems} | {num_samples} | {share['expanded']:.0%} | {share['attrited']:.0%} | {share['plain']:.0%} | "
                f"{false_found / replicates:.1%} | {share['naive']:.0%} | {false_naive / replicates:.0%} |"
            )
            print(rows[-1], flush=True)
    return rows


def role_rows(replicates: int) -> list[str]:
    """The role where something changed."""
    rows = []
    for name, draw in TRUTHS.items():
        for num_samples in SAMPLES:
            rng = np.random.default_rng([3, num_samples, len(rows)])
            n = np.full(NUM_PROBLEMS, num_samples)
            words: Counter[str] = Counter()
            for _ in range(replicates):
                first, last = draw(rng)
                before, after = rng.binomial(n, first), rng.binomial(n, last)
                mixtures = [fit_mixture(n, side, marks=[EPSILON]) for side in (before, after)]
                words[decide_role(n, before, after, ks_of(num_samples), mixtures, EPSILON, rng=rng).words] += 1
            said = ", ".join(f"{word} {count / replicates:.0%}" for word, count in words.most_common())
            rows.append(f"| {name} | {num_samples} | {said} |")
            print(rows[-1], flush=True)
    return rows


def table(head: tuple[str, ...], rows: list[str]) -> str:
    """A Markdown table; numbers to the right."""
    return "\n".join(["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1), *rows])


def main() -> None:
    """Simulate, print, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=400, help="runs of one model against itself, per law and n")
    parser.add_argument("--out", type=Path, default=None, help="Markdown file to write")
    arguments = parser.parse_args()
    start = time.monotonic()
    few = max(2, arguments.replicates // 40)
    null, power, roles = null_rows(arguments.replicates), power_rows(few), role_rows(few)
    error, role_error = (math.sqrt(0.05 * 0.95 / max(1, num)) for num in (arguments.replicates, arguments.replicates // 4))
    text = f"""# What a comparison claims, and what it misses

    python {shlex.join(sys.argv)}

{NUM_PROBLEMS} problems unless a row says otherwise, ε = {EPSILON:.4f}, the same number of samples n before and after. It took
{(time.monotonic() - start) / 60:.0f} minutes on one core.

## One model, drawn twice

Per law of success rates and n, {arguments.replicates:,} runs ({max(1, arguments.replicates // 4):,} for the role). *Any problem flagged*: share of runs in which
at least one problem is called expanded or attrited; *any change*: in which a problem has q ≤ {FALSE_DISCOVERY_RATE}, in either direction; *any role*: in
which the role is anything but "not distinguishable". All three are to be at most 5 %; the standard error of such a share is {error:.1%}
({role_error:.1%} for the role). On the right what the bare numbers say of the
same runs: problems that naive labels (no success before, at least one after) call expanded, and SRR and NDR, of which the first would be
1 and the others 0 for a model that did not change.

{table(("law", "n", "any problem flagged", "any change", "any role", "naive: expanded", "SRR", "NDR"), null)}

## True rises from 0 to {RISE:g}

Share of the true rises that are found, mean over {few} runs; the other problems are from Beta(.3, 1.2) and stay. *Attrited*: the same
problems with the sides swapped. *Plain BH*: the same Fisher tests under Benjamini–Hochberg as it is for continuous p-values. *False*:
share of the problems found that did not change, mean over runs.

{table(("true rises", "n", "expanded", "attrited", "plain BH", "false", "naive: found", "naive: false"), power)}

## The role, where something changed

Share of {few} runs.

{table(("truth", "n", "role"), roles)}
"""
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
