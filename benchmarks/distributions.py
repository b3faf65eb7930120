"""Distributions of success rates over problems, from which the benchmarks draw behaviors with known truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.diagnose.measure.label_posterior import PROBLEM_LABELS, labels_of
from posttrain.diagnose.types import Bottleneck, default_epsilon

EPSILON, MASTERED = default_epsilon(8), 0.9
Array = NDArray[np.float64]
Component = Callable[[np.random.Generator, int], Array]


@dataclass(frozen=True)
class RateDistribution:
    """A mixture of components."""

    what: str
    components: tuple[tuple[float, Component], ...]

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """Draw `size` success rates."""
        weights = np.array([weight for weight, _ in self.components])
        which = rng.choice(len(self.components), size=size, p=weights / weights.sum())
        rates = np.empty(size)
        for index, (_, component) in enumerate(self.components):
            rates[which == index] = component(rng, int((which == index).sum()))
        return rates


def at(rate: float) -> Component:
    """Return a point mass."""
    return lambda rng, size: np.full(size, rate)


def beta(a: float, b: float) -> Component:
    """Return a beta distribution."""
    return lambda rng, size: rng.beta(a, b, size)


def log_uniform(low: float, high: float) -> Component:
    """Return a log-uniform distribution."""
    return lambda rng, size: np.exp(rng.uniform(np.log(low), np.log(high), size))


DISTRIBUTIONS = {
    "skewed": RateDistribution("Beta(.3, 1.2): many hard, none impossible", ((1, beta(0.3, 1.2)),)),
    "impossible": RateDistribution("40 % impossible, the rest Beta(.8, 1.5)", ((0.4, at(0.0)), (0.6, beta(0.8, 1.5)))),
    "thresholds": RateDistribution(
        "25 % exactly at epsilon, 25 % exactly at .9, the rest uniform",
        ((0.25, at(EPSILON)), (0.25, at(MASTERED)), (0.5, beta(1, 1))),
    ),
    "planted": RateDistribution(
        "40 % impossible, 30 % Beta(4, 6), 30 % Beta(60, 1.5)", ((0.4, at(0.0)), (0.3, beta(4, 6)), (0.3, beta(60, 1.5)))
    ),
    "near mastered": RateDistribution("Beta(18, 2): everything close to .9", ((1, beta(18, 2)),)),
    "u-shaped": RateDistribution("Beta(.4, .4)", ((1, beta(0.4, 0.4)),)),
    "log-uniform": RateDistribution("log-uniform from 1e-4 to 1", ((1, log_uniform(1e-4, 1.0)),)),
}
"""By name. `thresholds`, `near mastered`, `skewed` and `log-uniform` have much mass near a threshold."""


def true_problem_labels(rates: Array) -> NDArray[np.int64]:
    """Return [P] 0 out of support, 1 unreliable, 2 mastered; −1 for a rate exactly at a threshold, where either label counts as wrong."""
    label = np.where(rates < EPSILON, 0, np.where(rates >= MASTERED, 2, 1))
    return np.where((rates == EPSILON) | (rates == MASTERED), -1, label)


def true_label(rates: Array) -> Bottleneck:
    """Return the label of a behavior whose success rates are known."""
    counts = np.array([[(rates < EPSILON).sum(), ((rates >= EPSILON) & (rates < MASTERED)).sum(), (rates >= MASTERED).sum()]])
    return PROBLEM_LABELS[int(labels_of(counts, rates.mean(keepdims=True), MASTERED)[0])]
