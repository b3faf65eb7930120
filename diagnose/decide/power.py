"""What further samples would do, said before they are drawn: what would decide an undecided label, and a power analysis of a design."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posttrain.analysis.stats import detectable_delta, detectable_rise, samples_to_resolve
from posttrain.diagnose.measure.label_posterior import LabelPosterior, label_posterior
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Cost, SamplingMeasurement, SettlesWith

GROWTHS = (2, 4, 8, 16, 32, 64)
"""Multiples of the samples so far that are tried."""
FUTURES = 10
"""Continuations that are simulated for each."""
_FEW_CHAINS = 8
"""Of the posterior of a continuation: its confidence is then known to .02."""


def what_settles(
    known: LabelPosterior, sampling: SamplingMeasurement, *, epsilon: float, thresholds: Thresholds, cost: Cost, seed: int
) -> SettlesWith | None:
    """Return the further samples, the same number of every problem, after which the label is expected to be decided.

    Success rates are drawn from the posterior, samples from the rates, and the label is decided as it would be: no formula
    stands between the question and the answer. Adaptive rounds (`--precision`, `--max-tokens-total`) need fewer.

    Args:
        known: The posterior so far.
        sampling: What was counted.
        epsilon: Rate under which a problem is out of support.
        thresholds: What a label depends on.
        cost: What the measurement took; seconds follow from its speed.
        seed: Of the simulation.

    Returns:
        As many again, or 3, 7, ... 63 times as many as so far: the first that decides four of five simulated continuations, else the
        first of those that decide most. None where none decides half of them: the behavior lies at a threshold, or has too few
        problems to ever tell.
    """
    rng = np.random.default_rng(seed)
    total = sampling.num_samples + sampling.num_missing
    if not total.sum():
        return None
    futures = known.mixture.draw_rates(rng=rng, num_draws=FUTURES)
    best, chance = 0, 0.0
    for growth in GROWTHS:
        more = (growth - 1) * np.maximum(1, total)
        decided = 0
        for rates in futures:
            n, c = sampling.num_samples + more, sampling.num_correct + rng.binomial(more, rates)
            later = label_posterior(
                n, c, epsilon=epsilon, thresholds=thresholds, groups=sampling.groups, seed=seed, most_chains=_FEW_CHAINS
            )
            decided += later.confidence >= thresholds.confidence
        if decided / len(futures) > chance:
            best, chance = int(more.sum()), decided / len(futures)
        if chance >= thresholds.power.wanted:
            break
    if chance < thresholds.power.least:
        return None
    tokens = int(np.ceil(best * sampling.num_tokens.sum() / total.sum()))
    speed = cost.seconds / cost.generated_tokens if cost.generated_tokens else float("nan")
    return SettlesWith(samples=best, tokens=tokens, seconds=round(tokens * speed, 1), chance=chance)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerAnalysis:
    """What a design with n samples of each of P problems can detect, were the success rates spread evenly over [0, 1]."""

    half_width: float
    """Of the 95 % interval of pass@1."""
    minimum_detectable_change: float
    """Smallest change of pass@1 between two such runs that is found in four of five cases."""
    minimum_detectable_rise: float
    """Smallest rate to which one problem must rise from zero to be found, tested alone; NaN where no rise could be."""
    resolved_rate: float
    """Smallest success rate that 0 of n samples rule out with 95 % confidence."""
    needed_for_epsilon: int
    """Samples of one problem that would rule out epsilon."""


def analyze_power(num_problems: int, num_samples: int, epsilon: float) -> PowerAnalysis:
    """Return what a planned design can detect, each with 80 % power.

    Args:
        num_problems: P.
        num_samples: n per problem.
        epsilon: Rate under which a problem is out of support.
    """
    # Rates spread evenly over [0, 1]: variance 1/12 between problems, 1/6 within.
    between, within = 1.0 / 12.0, 1.0 / 6.0
    return PowerAnalysis(
        half_width=1.96 * float(np.sqrt((between + within / num_samples) / num_problems)),
        minimum_detectable_change=detectable_delta(num_problems, num_samples, within),
        minimum_detectable_rise=detectable_rise(num_samples),
        resolved_rate=1.0 - 0.05 ** (1.0 / num_samples),
        needed_for_epsilon=samples_to_resolve(epsilon),
    )
