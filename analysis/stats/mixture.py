"""The posterior of success rates over problems: a Dirichlet-process mixture of binomials, by Gibbs sampling.

    G ~ DP(1, Beta(.2, .4)),      p_i ~ G,      c_i ~ Binomial(n_i, p_i)

Problems fall into clusters that share a rate; how many clusters there are, and where, is learned from all problems together, so that any
distribution of difficulty can be represented. Sample counts may differ between problems and may come from adaptive sampling: the likelihood
does not depend on the stopping rule (arXiv 2510.05197).

**Sampler.** Blocked Gibbs (Ishwaran and James, Journal of the American Statistical Association 96, 2001) on `NUM_CLUSTERS` clusters with
weights Dirichlet(1/`NUM_CLUSTERS`, ...): draw the cluster of every problem, the rate of every cluster from its Beta posterior, the weights.
Problems with the same counts are drawn together, by a multinomial, so that a sweep costs the same for a hundred problems and for a million.
A cluster moves with all its problems, which is why short chains are enough: chains ten times as long gave the same labels.

**Doubt where samples cannot tell.** Sixteen samples do not tell a rate of .002 from one of .02. There the posterior is the prior's: clusters
without a success lie anywhere below about one over their samples, as the base says, which has equal density per factor of ten, nearly. That
doubt is wide, and no number of problems makes it narrow; `benchmarks/held_out_statistics.py` measures how often it is right on distributions that
share nothing with this prior.

The prior's three numbers, and what changes with them, stand in docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts, check_k, check_level, distinct_pairs
from posttrain.analysis.stats.few_problems import bound_few_problems
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.profile_likelihood import population_intervals

CONCENTRATION = 1.0
"""Of the Dirichlet process: the weight of the base, in problems."""
BASE = (0.2, 0.4)
"""Of the Beta base: about a fifth of its mass below .0064, a tenth from there to 1/16, a quarter above .9."""
NUM_CLUSTERS = 20
"""The process puts all but e^−19 of its mass on the first twenty clusters."""
BURN_IN, KEPT = 30, 16
"""Sweeps before the first draw is kept, and draws kept of each chain, every second sweep."""
MOST_CHAINS, FEWEST_CHAINS, CHAIN_WORK = 64, 4, 160_000
"""Chains: as many as keep a sweep within `CHAIN_WORK` (distinct counts × clusters × chains)."""
_SMALLEST_RATE, _NEGLIGIBLE = 1e-12, 1e-9
_CHUNK = 4_000_000
"""Numbers of a temporary array."""


@dataclass(frozen=True)
class MixturePosterior:
    """Posterior of every problem's success rate and of their distribution. Made by `fit_mixture`; sampled when first read."""

    num_samples: IntArray
    """[P]"""
    num_correct: IntArray
    """[P]"""
    pairs: IntArray
    """[U, 2] the distinct counts (n, c)."""
    place: IntArray
    """[P] index of each problem's count in `pairs`."""
    repeats: IntArray
    """[U] number of problems with that count."""
    groups: IntArray | None
    """[P] index of each problem's group; None where problems are unrelated. Only intervals for the population depend on it."""
    seed: int
    """Random seed of the posterior draws."""
    most_chains: int = MOST_CHAINS
    """Chains of the sampler at most."""

    # --------------------------------------------------------------------------------------------------------------- draws

    @cached_property
    def draws(self) -> tuple[FloatArray, FloatArray]:
        """[D, H] weights and [D, H] rates of the clusters, in D posterior draws of the distribution."""
        return sample_clusters(self.pairs, self.repeats, self.most_chains, np.random.default_rng(self.seed))

    def expectations(self, values: FloatArray) -> FloatArray:
        """Compute the mean of F values of the rate, for a problem with each distinct count under each draw of the distribution.

        Args:
            values: [D, H, F] of the rate of each cluster in `draws`.

        Returns:
            [D, U, F]
        """
        weights, rates = self.draws
        found = np.empty((len(weights), len(self.pairs), values.shape[2]))
        size = max(1, _CHUNK // weights.size)
        for first in range(0, len(self.pairs), size):
            chunk = slice(first, first + size)
            found[:, chunk] = _cluster_chances(self.pairs[chunk], weights, rates) @ values
        return found

    # ------------------------------------------------------------------------------------------------------------- problems

    def interval_probabilities(self, edges: Sequence[float]) -> FloatArray:
        """Compute the posterior probability that each problem's success rate lies in each interval.

        Args:
            edges: E increasing numbers inside (0, 1); the intervals are [0, e1), [e1, e2), ..., [eE, 1].

        Returns:
            [P, E + 1]

        Raises:
            ValueError: edges that do not rise or lie outside (0, 1).
        """
        return np.asarray(self.expectations(self._indicators(edges)).mean(axis=0)[self.place])

    def _indicators(self, edges: Sequence[float]) -> FloatArray:
        """Return [D, H, E + 1] whether each cluster's rate lies in each interval."""
        cuts = np.asarray(edges, dtype=np.float64)
        if cuts.ndim != 1 or np.any(~((cuts > 0.0) & (cuts < 1.0))) or np.any(np.diff(cuts) <= 0):
            raise ValueError(f"edges must rise and lie inside (0, 1), got {list(edges)}")
        index = np.searchsorted(cuts, self.draws[1], side="right")
        return np.asarray((index[:, :, None] == np.arange(len(cuts) + 1)).astype(np.float64))

    def draw_interval_counts(self, edges: Sequence[float], *, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
        """Draw how many of *these* problems lie in each interval, and their mean success rate, from the posterior.

        Args:
            edges: As in `interval_probabilities`.
            rng: Random generator.

        Returns:
            [D, E + 1] numbers of problems, each row summing to P, and [D] mean rates, NaN without problems. Given the distribution, the
            mean is drawn from the normal distribution with its exact mean and variance, independently of the counts.

        Raises:
            ValueError: bad edges.
        """
        rates = self.draws[1][:, :, None]
        features = np.concatenate([self._indicators(edges), rates, rates**2], axis=2)
        means = self.expectations(features)
        chances = means[:, :, :-2] / np.maximum(means[:, :, :-2].sum(axis=2, keepdims=True), 1e-300)
        counts = rng.multinomial(self.repeats, chances).sum(axis=1)
        spread = np.sqrt(np.maximum(means[:, :, -1] - means[:, :, -2] ** 2, 0.0) @ self.repeats)
        total = rng.normal(means[:, :, -2] @ self.repeats, spread)
        num_problems = self.num_samples.size
        mean = total / num_problems if num_problems else np.full(len(counts), np.nan)
        return counts, np.clip(mean, 0.0, 1.0)

    def draw_rates(self, *, rng: np.random.Generator, num_draws: int) -> FloatArray:
        """Draw every problem's success rate from the posterior.

        Args:
            rng: Random generator.
            num_draws: Number of draws D; draws of the distribution are used again where there are fewer.

        Returns:
            [D, P] rates in [0, 1].

        Raises:
            ValueError: num_draws below 1.
        """
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        weights, rates = self.draws
        which = rng.permutation(len(weights))[np.arange(num_draws) % len(weights)]
        drawn = np.empty((num_draws, self.num_samples.size))
        for index, pair in enumerate(self.pairs):
            (members,) = np.nonzero(self.place == index)
            cumulative = np.cumsum(_cluster_chances(pair[None, :], weights, rates)[:, 0, :], axis=1)
            # Row d of the flattened table lies in (d, d + 1], so that one search serves all rows.
            stacked = (cumulative / cumulative[:, -1:] + np.arange(len(weights))[:, None]).reshape(-1)
            wanted = rng.random((num_draws, members.size)) + which[:, None]
            found = np.minimum(np.searchsorted(stacked, wanted, side="left"), which[:, None] * NUM_CLUSTERS + NUM_CLUSTERS - 1)
            drawn[:, members] = rates.reshape(-1)[found]
        return drawn

    def problem_means(self) -> FloatArray:
        """Return [P] the posterior mean of each problem's success rate."""
        return np.asarray(self.expectations(self.draws[1][:, :, None]).mean(axis=0)[self.place, 0])

    # ----------------------------------------------------------------------------------------------------------- population

    def pass_at_ks(self, ks: Sequence[int], *, level: float = 0.95) -> list[Interval]:
        """Estimate mean pass@k over the population of problems, also for k beyond the number of samples.

        Args:
            ks: Attempts, at least 1 each.
            level: Confidence.

        Returns:
            For each k the maximum-likelihood estimate and a profile interval over all distributions; bounds alone where the samples do not
            identify it.

        Raises:
            ValueError: k below 1, or a level outside (0, 1).

        Source: arXiv 2510.05197, with any distribution in place of a beta.
        """
        for k in ks:
            check_k(k)
        found = self._population(lambda rates: np.array([1.0 - (1.0 - rates) ** k for k in ks]), level)
        if self.groups is not None:
            return found
        known = self.num_samples > 0
        return bound_few_problems(found, ks, self.num_samples[known], self.num_correct[known], level=level)

    def share_between(self, low: float, high: float, *, level: float = 0.95) -> Interval:
        """Estimate the share of the population of problems with a success rate in [low, high); up to 1 included where high is 1.

        Only its upper end is ever known for rates far below one over the samples: no samples tell 0 from such a rate.

        Args:
            low: At least 0.
            high: Above `low`, at most 1.
            level: Confidence.

        Raises:
            ValueError: arguments out of range.
        """
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"expected 0 <= low < high <= 1, got {low} and {high}")
        end = high if high < 1.0 else 2.0
        return self._population(lambda rates: ((rates >= low) & (rates < end)).astype(np.float64)[None, :], level)[0]

    def groups_without_signal(self, size: int, *, level: float = 0.95) -> tuple[Interval, Interval, Interval]:
        """Estimate the share of groups of samples in which all succeed or all fail, over the population of problems.

        Args:
            size: Samples of a group, at least 1.
            level: Confidence.

        Returns:
            Groups without a success, groups without a failure, and both together; bounds alone where the samples do not identify a share.

        Raises:
            ValueError: size below 1, or a level outside (0, 1).
        """
        check_k(size)

        def shares(rates: FloatArray) -> FloatArray:
            none, every = (1.0 - rates) ** size, rates**size
            return np.array([none, every, none + every])

        none, every, both = self._population(shares, level)
        return none, every, both

    def _population(self, functionals: Callable[[FloatArray], FloatArray], level: float) -> list[Interval]:
        check_level(level)
        known = self.num_samples > 0
        groups = None if self.groups is None else self.groups[known]
        return population_intervals(self.pairs, self.place[known], functionals, level=level, groups=groups)


def fit_mixture(
    num_samples: npt.ArrayLike,
    num_correct: npt.ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    most_chains: int = MOST_CHAINS,
) -> MixturePosterior:
    """Fit the distribution of success rates over problems; the module docstring states the model.

    Args:
        num_samples: [P] samples with a known outcome; they may differ. A problem without samples is informed by the others only.
        num_correct: [P] successes.
        groups: [P] name of the group of each problem, or None where problems are unrelated.
        seed: Random seed of the draws; the same counts and seed give the same posterior, in whatever order the problems come.

        most_chains: Fewer make it coarser and faster; `KEPT` draws come from each.

    Returns:
        The posterior. Without any data it is the prior.

    Raises:
        ValueError: Bad counts or groups.
    """
    samples, correct = as_counts(num_samples, num_correct)
    if groups is not None and len(groups) != samples.size:
        raise ValueError(f"{len(groups)} groups for {samples.size} problems")
    numbers = None
    if groups is not None and len(set(groups)) < samples.size:
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    return MixturePosterior(samples, correct, *distinct_pairs(samples, correct), numbers, seed, most_chains)


def sample_clusters(
    pairs: IntArray, repeats: IntArray, most_chains: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw the weights and rates of the clusters from their posterior, in independent chains that start from the prior.

    Args:
        pairs: [U, 2] distinct counts (samples, successes).
        repeats: [U] problems with each.
        most_chains: Chains at most.
        rng: Random generator.

    Returns:
        [D, H] weights and [D, H] rates.
    """
    known = pairs[:, 0] > 0
    pairs, repeats = pairs[known], repeats[known]
    correct, wrong = pairs[:, 1].astype(np.float64), (pairs[:, 0] - pairs[:, 1]).astype(np.float64)
    num_chains = int(np.clip(CHAIN_WORK // (NUM_CLUSTERS * max(1, len(pairs))), min(FEWEST_CHAINS, most_chains), most_chains))
    members = np.zeros((num_chains, len(pairs), NUM_CLUSTERS))
    kept: list[tuple[FloatArray, FloatArray]] = []
    for sweep in range(1 + BURN_IN + 2 * KEPT):
        right = rng.standard_gamma(BASE[0] + np.einsum("duh,u->dh", members, correct))
        failed = rng.standard_gamma(BASE[1] + np.einsum("duh,u->dh", members, wrong))
        rates = np.clip(right / np.maximum(right + failed, 1e-300), _SMALLEST_RATE, 1.0 - _SMALLEST_RATE)
        weights = np.maximum(rng.standard_gamma(CONCENTRATION / NUM_CLUSTERS + members.sum(axis=1)), 1e-300)
        weights /= weights.sum(axis=1, keepdims=True)
        chances = _cluster_chances(pairs, weights, rates)
        chances[chances < _NEGLIGIBLE] = 0.0
        members = rng.multinomial(repeats, chances).astype(np.float64)
        if sweep > BURN_IN and (sweep - BURN_IN) % 2 == 0:
            kept.append((weights, rates))
    return np.concatenate([one for one, _ in kept]), np.concatenate([one for _, one in kept])


def _cluster_chances(pairs: IntArray, weights: FloatArray, rates: FloatArray) -> FloatArray:
    """Return [D, U, H] chances that a problem with each of the counts [U, 2] is in each cluster."""
    correct, wrong = pairs[:, 1].astype(np.float64), (pairs[:, 0] - pairs[:, 1]).astype(np.float64)
    with np.errstate(divide="ignore"):
        scores = (
            np.log(weights)[:, None, :]
            + correct[:, None] * np.log(rates)[:, None, :]
            + wrong[:, None] * np.log1p(-rates)[:, None, :]
        )
    scores -= scores.max(axis=2, keepdims=True)
    chances = np.exp(scores, out=scores)
    chances /= chances.sum(axis=2, keepdims=True)
    return np.asarray(chances)
