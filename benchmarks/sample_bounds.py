"""Lower bounds on the samples that a verdict needs, for `sample_efficiency.py`.

*Told the distribution*, for problems: a method that is told the distribution needs to learn nothing but each problem's own rate. It stops
and allocates optimally by dynamic programming over (samples, successes); the bound is the dual over rewards and prices
(`KnownDistribution.least`). A method that has to learn the distribution cannot need fewer samples if it errs no more often.

*At any rates*: a method that is wrong at most one time in twenty whatever the rates are.

* Problems, each labelled by its own samples: to label a problem of rate p correctly with probability d, it needs

      E[N] ≥ kl(d, .05) / KL(p, θ)

  for either threshold θ, because there the same label would be wrong. Adaptive rounds may need fewer: they use the other problems, and are
  held to a share of wrong labels over all problems.
* Behavior: the same for its label, whose price in samples per nat is that of the most expensive other rates with another label
  (`price_of_label`).

In both, the d that give the share at the least mean solve kl'(d, .05) = λ / price (`least_samples`).

Source of the last two: Garivier and Kaufmann, arXiv 1602.04589; for one problem, Wald 1945.
"""

from __future__ import annotations

import numpy as np
from distributions import DISTRIBUTIONS, EPSILON, MASTERED, Array, true_problem_labels
from scipy.special import expit, logit, rel_entr

ERROR = 0.05
HORIZON = 1280
"""Most samples of one problem for a method that is told the distribution."""
NUM_RATES = 200_000
"""Rates drawn to represent a distribution."""


def reference_rates(distribution: str) -> Array:
    """Draw `NUM_RATES` rates of a distribution."""
    return DISTRIBUTIONS[distribution].draw(np.random.default_rng(0), NUM_RATES)


class KnownDistribution:
    """Hold the probability of every (samples, successes) of one problem, up to `HORIZON`, for a method that is told the distribution."""

    def __init__(self, distribution: str):
        rates = reference_rates(distribution)
        fine = np.concatenate(
            [np.linspace(0, 1, 161), [0.0005, 0.001, 0.002, 0.003, 0.0045, 0.0085, 0.012, 0.016, EPSILON, MASTERED]]
        )
        self.points = np.unique(fine)
        self.side = true_problem_labels(self.points)
        self.weight = np.zeros(self.points.size)
        for state in (-1, 0, 1, 2):  # every rate goes to the nearest point on its own side of the thresholds
            own, mine = np.flatnonzero(self.side == state), rates[true_problem_labels(rates) == state]
            if mine.size:
                nearest = np.searchsorted((self.points[own][1:] + self.points[own][:-1]) / 2, mine)
                np.add.at(self.weight, own[nearest], 1.0 / NUM_RATES)
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
        """Compute [R] the largest mean of reward·right − price·wrong − samples of any rule, for each reward and price."""
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
        """Return the mean samples below which no rule labels `share` of the problems correctly and at most `error` incorrectly.

        For any reward and price, such a rule has reward·share − price·error − samples ≤ the largest value.
        """
        return float(np.max(self.reward * share - self.price * error - self.value))


def least_alone(rates: Array, share: float) -> float:
    """Return the least mean samples per problem if each is labelled by its own samples, with an error of at most `ERROR` at any rate.

    Args:
        rates: [R] drawn from the distribution.
        share: Share of the problems to be labelled correctly.
    """
    rates = rates[true_problem_labels(rates) >= 0]  # at a threshold either label is wrong
    nats = np.minimum(*(bernoulli_kl(rates, edge) for edge in (EPSILON, MASTERED)))
    return least_samples(1.0 / nats, np.full(rates.size, 1.0 / NUM_RATES), share)


def least_samples(price: Array, weight: Array, share: float) -> float:
    """Return the least mean samples if a label with probability d costs price·kl(d, `ERROR`) and the mean of d must be `share`.

    Args:
        price: [R] samples per nat, at least 0, infinite where no samples help.
        weight: [R] sums to at most one.
        share: Mean of d.
    """
    able = np.isfinite(price)
    price, weight, free = price[able], weight[able], ERROR * float(weight[~able].sum())
    if share - free > weight.sum() - 1e-9:  # all are labelled with certainty, or `share` is out of reach
        return float(weight @ price * -np.log(ERROR)) if share - free < weight.sum() + 1e-9 else float("inf")
    with np.errstate(divide="ignore"):
        nats = np.minimum(1.0 / price, 1e12)
    low, high = 0.0, 1e9  # λ
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if weight @ expit(middle * nats + logit(ERROR)) + free < share else (low, middle)
    return float(weight @ (bernoulli_kl(expit(high * nats + logit(ERROR)), ERROR) * price))


def bernoulli_kl(p: Array, q: Array | float) -> Array:
    """Compute [P] the Kullback–Leibler divergence between Bernoulli distributions of rates p and q, nats."""
    return np.asarray(rel_entr(p, q) + rel_entr(1.0 - p, 1.0 - np.asarray(q)))


def price_of_label(rates: Array) -> float:
    """Return the least samples per problem for each nat of evidence about the label, under any allocation.

    A sample of problem i distinguishes its rate p_i from p'_i by KL(p_i, p'_i) nats. Alternatives with another label: all problems move by
    the same number of nats until the mean crosses `MASTERED`; or just enough problems, any of them, cross a threshold that the other label
    has the majority. The most expensive alternative counts; samples spent on different problems add up.

    Source: Garivier and Kaufmann, arXiv 1602.04589, Theorem 1.
    """
    below, above = rates < EPSILON, rates >= MASTERED
    between = ~below & ~above
    up = rates.mean() < MASTERED
    most_expensive = 1.0 / nats_to_the_mean(rates)
    if up and below.sum() > between.sum():
        gap = int(below.sum() - between.sum())  # closes by two with a problem out of support, by one with one that is mastered
        both = price_of_any(rates[below], EPSILON, -(-gap // 2)) + price_of_any(rates[above], MASTERED, gap)
        most_expensive = max(most_expensive, both)
    elif up:
        gap = int(between.sum() - below.sum()) + 1
        most_expensive = max(most_expensive, price_of_any(rates[between], EPSILON, -(-gap // 2)))
    return float(most_expensive / rates.size)


def nats_to_the_mean(rates: Array) -> float:
    """Return the nats by which every problem must move for the mean to cross `MASTERED`."""
    up = rates.mean() < MASTERED
    low, high = 0.0, 5.0
    for _ in range(40):
        nats = (low + high) / 2
        near, far = rates.copy(), np.full(rates.size, 1.0 - 1e-12 if up else 1e-12)
        for _ in range(40):
            middle = (near + far) / 2
            inside = bernoulli_kl(rates, middle) < nats
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        low, high = (low, nats) if (near.mean() >= MASTERED) == up else (nats, high)
    return high


def price_of_any(rates: Array, edge: float, moved: int) -> float:
    """Return the samples per nat if any `moved` of these problems may lie at an edge instead; 0 where there are fewer."""
    if moved > rates.size:
        return 0.0
    nats = np.sort(bernoulli_kl(rates, edge))[::-1]
    with np.errstate(divide="ignore"):
        price = np.cumsum(1.0 / nats)
    # Number of moved problems left if all but the cheapest to distinguish get no samples.
    left = moved - (nats.size - np.arange(1, nats.size + 1))
    return float((price[left > 0] / left[left > 0]).min())
