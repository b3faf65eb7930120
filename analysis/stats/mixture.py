"""The mixing distribution of success rates over problems, and the posterior of every problem's rate.

    p_i ~ G,      c_i ~ Binomial(n_i, p_i),      G any distribution on a fine grid of rates that includes 0, 1 and the thresholds

Sample counts may differ between problems and may come from adaptive sampling: the likelihood does not depend on the stopping rule
(arXiv 2510.05197).

**Prior.** G ~ Dirichlet process with the base of `rate_grid` (a quarter at 0, a twentieth at 1, a tenth at each threshold, the rest
uniform in log-odds, so that near zero a rate of 1e-4 is a priori as likely as one of 1e-3) and a concentration of `PRIOR_PROBLEMS`
problems.

**Posterior** by the weighted likelihood bootstrap: each draw gives every problem (every group, where problems are related) a random
weight Gamma(1), every grid point a random prior weight, and maximizes the weighted likelihood by accelerated EM from the base: about a
hundred matrix products for all draws at once, however many problems there are. Where samples cannot tell two rates apart, EM leaves
them in the proportion of the base.

**Why not a parametric family.** A zero-inflated beta is sharper where it is true. Where it is not, it is confident and wrong: over
simulated behaviors of many distributions (`benchmarks/calibration.py`), labels to which a beta mixture gave a confidence of 0.99 were
right in 0.95 of cases, those of this model in more than 0.99.

**Why points at the thresholds.** Under a smooth prior, a problem that lies *at* a threshold is sooner or later called one side or the
other, and optional stopping makes it sooner. Where the distribution may have a point mass at the threshold, the evidence has to beat "it
lies there" first. What lies there may lie just to either side, all of it or any part: each draw of the distribution splits it at random.

**Why problems without a success need this.** Under a uniform prior for every problem, 24 problems without a success in 16 samples would
"pass" half the time within 128 attempts.

**Why half of the draws of a label are not smoothed.** A smooth distribution is right about single problems, whose rates are seldom equal,
and its intervals for them cover. But where problems do share a rate near a threshold, it puts part of them on either side and is sure of
that share. A label is what smooth distributions and distributions made of point masses agree on (`benchmarks/borderline_labels.py`).

Sources: nonparametric mixtures, Kiefer and Wolfowitz (1956); weighted likelihood bootstrap, Newton and Raftery (1994), with a prior
as in arXiv 1806.05053.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts, check_k, check_level
from posttrain.analysis.stats.intervals import Interval, design_effect
from posttrain.analysis.stats.profile_likelihood import profile_intervals
from posttrain.analysis.stats.squarem import MixingWeights, run_squarem
from posttrain.analysis.stats.success_rate_grid import RateGrid, likelihood_table, rate_grid

PRIOR_PROBLEMS = 4.0
"""Weight of the prior, in problems."""
NUM_DISTRIBUTIONS = 256
"""Posterior draws of the mixing distribution."""
CHUNK_DRAWS = 64
"""Draws of all problems' intervals that are held in memory together."""
SQUAREM_STEPS = 15
"""Accelerated EM steps, each worth about ten plain ones."""


@dataclass(frozen=True)
class MixturePosterior:
    """Posterior of the mixing distribution and of every problem's success rate. Made by `fit_mixture`."""

    num_samples: IntArray
    """[P]"""
    num_correct: IntArray
    """[P]"""
    grid: RateGrid
    """K rates and their prior."""
    distributions: FloatArray
    """[D, K] posterior draws of the mixing distribution, smooth; rows sum to one."""
    pairs: IntArray
    """[U, 2] the distinct counts (n, c)."""
    place: IntArray
    """[P] index of each problem's count in `pairs`."""
    repeats: IntArray
    """[U] number of problems with that count."""
    likelihood: FloatArray
    """[U, K] of each distinct count at each rate, scaled by row."""
    groups: IntArray | None
    """[P] index of each problem's group; None where problems are unrelated."""
    seed: int
    """Random seed of the posterior draws."""

    # ------------------------------------------------------------------------------------------------------------- problems

    @cached_property
    def pair_posterior(self) -> FloatArray:
        """[U, K] posterior of the rate of a problem with each distinct count."""
        prior = self.distributions
        return np.asarray(self.likelihood * ((1.0 / self._evidence(prior)).T @ prior) / len(prior))

    @cached_property
    def unsmoothed_distributions(self) -> FloatArray:
        """[D, K] posterior draws of the mixing distribution without smoothing: problems may share a rate, wherever it lies."""
        rng = np.random.default_rng([self.seed, 1])
        return _draw_distributions(self.grid, self.likelihood, self.place, self.groups, rng, smooth=False)

    def _evidence(self, distributions: FloatArray) -> FloatArray:
        """[D, U] likelihood of each distinct count under each distribution."""
        return np.asarray(np.maximum(distributions @ self.likelihood.T, 1e-300))

    def interval_probabilities(self, edges: Sequence[float], *, strict: bool = False) -> FloatArray:
        """Compute the posterior probability that each problem's success rate lies in each interval.

        Args:
            edges: E increasing numbers inside (0, 1); the intervals are [0, e1), [e1, e2), ..., [eE, 1]. Pass edges that may carry a
                point mass as `marks` to `fit_mixture`.
            strict: Leave out what lies exactly at an edge, so that rows sum to one minus the probability of lying there.

        Returns:
            [P, E + 1]

        Raises:
            ValueError: edges that do not rise or lie outside (0, 1).
        """
        return (self.pair_posterior @ self.interval_indicators(edges, strict=strict))[self.place]

    def interval_indicators(self, edges: Sequence[float], *, strict: bool = False) -> FloatArray:
        """Return [K, E + 1] whether each rate of the grid lies in each interval; arguments as in `interval_probabilities`."""
        cuts = check_edges(edges)
        rates = self.grid.rates
        index = np.searchsorted(cuts, rates, side="right")
        matrix: FloatArray = (index[:, None] == np.arange(len(cuts) + 1)).astype(np.float64)
        if strict:
            matrix[np.isin(rates, cuts) | np.isin(rates, np.nextafter(cuts, 0.0))] = 0.0
        return matrix

    def draw_interval_counts(
        self, edges: Sequence[float], *, rng: np.random.Generator, num_draws: int = 1024
    ) -> tuple[IntArray, FloatArray]:
        """Draw how many of *these* problems lie in each interval, and their mean success rate, from the posterior.

        Args:
            edges: As in `interval_probabilities`.
            rng: Random generator.
            num_draws: Number of draws D; one half cycles through the smooth distributions, one through the unsmoothed ones.

        Returns:
            [D, E + 1] numbers of problems, each row summing to P, and [D] mean rates, NaN without problems. Given the distribution, the
            mean is drawn from the normal distribution with its exact mean and variance, independently of the counts.

        Raises:
            ValueError: bad edges or num_draws below 1.
        """
        matrix = self.interval_indicators(edges)
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        half = (num_draws + 1) // 2
        drawn = [
            self._draw_counts_under(distributions, matrix, rng, num)
            for distributions, num in ((self.distributions, half), (self.unsmoothed_distributions, num_draws - half))
        ]
        counts, totals = (np.concatenate(part) for part in zip(*drawn, strict=True))
        num_problems = self.num_samples.size
        mean = totals / num_problems if num_problems else np.full(num_draws, np.nan)
        return counts, np.clip(mean, 0.0, 1.0)

    def _draw_counts_under(
        self, distributions: FloatArray, matrix: FloatArray, rng: np.random.Generator, num_draws: int
    ) -> tuple[IntArray, FloatArray]:
        """[D, E + 1] numbers of problems and [D] sums of their rates, cycling through the distributions."""
        rates, evidence = self.grid.rates, self._evidence(distributions)
        features = np.concatenate([matrix, rates[:, None], rates[:, None] ** 2], axis=1)
        means = np.stack([(distributions * column) @ self.likelihood.T / evidence for column in features.T], axis=2)
        chances = np.maximum(means[:, :, : matrix.shape[1]], 0.0)
        chances /= np.maximum(chances.sum(axis=2, keepdims=True), 1e-300)
        centre = means[:, :, -2] @ self.repeats
        spread = np.sqrt(np.maximum(means[:, :, -1] - means[:, :, -2] ** 2, 0.0) @ self.repeats)
        which = np.arange(num_draws) % len(distributions)
        counts = [
            rng.multinomial(self.repeats, chances[which[first : first + CHUNK_DRAWS]]).sum(axis=1)
            for first in range(0, max(1, num_draws), CHUNK_DRAWS)
        ]
        return np.concatenate(counts), rng.normal(centre[which], spread[which])

    def draw_rates(self, *, rng: np.random.Generator, num_draws: int) -> FloatArray:
        """Draw every problem's success rate from the posterior, cycling through the distributions.

        Args:
            rng: Random generator.
            num_draws: Number of draws D.

        Returns:
            [D, P] rates in [0, 1].

        Raises:
            ValueError: num_draws below 1.
        """
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        which = np.arange(num_draws) % len(self.distributions)
        rates = np.empty((num_draws, self.num_samples.size))
        for index, row in enumerate(self.likelihood):
            cumulative = np.cumsum(self.distributions * row, axis=1)
            cumulative /= cumulative[:, -1:]
            (members,) = np.nonzero(self.place == index)
            # Row d of the flattened table lies in (d, d + 1], so that one search serves all rows.
            stacked = (cumulative + np.arange(len(self.distributions))[:, None]).reshape(-1)
            wanted = rng.random((num_draws, members.size)) + which[:, None]
            found = np.searchsorted(stacked, wanted.reshape(-1), side="left").reshape(wanted.shape)
            rates[:, members] = self.grid.rates[
                np.clip(found - which[:, None] * self.grid.rates.size, 0, self.grid.rates.size - 1)
            ]
        return rates

    def problem_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Compute the posterior mean and equal-tailed interval of every problem's success rate.

        Args:
            level: Posterior probability inside the interval.

        Returns:
            Three arrays [P]: mean, low, high; the ends are rates of the grid. For a problem that always failed or always passed, the end
            stays at least 1 − tail^(1/N) away from 0 or 1, which is all that N samples in total could prove. So an interval never has
            zero width, and the prior alone never makes a rate impossible.

        Raises:
            ValueError: level outside (0, 1).
        """
        check_level(level)
        posterior, rates = self.pair_posterior, self.grid.rates
        n, c = self.pairs.T
        cumulative = np.cumsum(posterior, axis=1)
        cumulative /= np.maximum(cumulative[:, -1:], 1e-300)
        tail = (1 - level) / 2
        low = rates[np.minimum((cumulative < tail).sum(axis=1), rates.size - 1)]
        high = rates[np.minimum((cumulative < 1 - tail).sum(axis=1), rates.size - 1)]
        never_closer = -np.expm1(np.log(tail) / max(1, int(self.num_samples.sum())))
        high = np.where(c == 0, np.maximum(high, never_closer), high)
        low = np.where(c == n, np.minimum(low, 1.0 - never_closer), low)
        return (posterior @ rates)[self.place], low[self.place], high[self.place]

    # ----------------------------------------------------------------------------------------------------------- population

    def pass_at_k(self, k: int, *, level: float = 0.95) -> Interval:
        """Estimate mean pass@k over the population of problems, also for k beyond the number of samples.

        Args:
            k: Attempts, at least 1.
            level: Confidence.

        Returns:
            Maximum-likelihood estimate and profile interval over all distributions; bounds alone where the data do not identify it.

        Raises:
            ValueError: k below 1, or a level outside (0, 1).

        Source: arXiv 2510.05197, with any distribution in place of a beta.
        """
        return self.pass_at_ks([k], level=level)[0]

    def pass_at_ks(self, ks: Sequence[int], *, level: float = 0.95) -> list[Interval]:
        """Compute `pass_at_k` for several k at once, which costs little more than for one."""
        for k in ks:
            check_k(k)
        return self._intervals(np.array([-np.expm1(k * _log1m(self.grid.rates)) for k in ks]), level)

    def share_below(self, rate: float, *, level: float = 0.95) -> Interval:
        """Estimate the share of the population of problems with a success rate below `rate`.

        Args:
            rate: Inside (0, 1).
            level: Confidence.

        Raises:
            ValueError: arguments out of range.
        """
        check_edges([rate])
        return self._intervals((self.grid.rates < rate).astype(np.float64)[None, :], level)[0]

    def impossible_mass(self, *, level: float = 0.95) -> Interval:
        """Estimate the share π0 of the population of problems whose success rate is exactly zero.

        Only its upper end is ever known without assuming a shape: no samples tell 0 from a rate far below 1/n. `share_below` answers
        what samples can.

        Args:
            level: Confidence.
        """
        return self._intervals((self.grid.rates == 0.0).astype(np.float64)[None, :], level)[0]

    def _intervals(self, functionals: FloatArray, level: float) -> list[Interval]:
        check_level(level)
        sampled = self.num_samples > 0
        known = self.pairs[:, 0] > 0
        num_units = int(sampled.sum())
        effect = 1.0
        if self.groups is not None and num_units:
            rates = self.num_correct[sampled] / self.num_samples[sampled]
            effect = design_effect(rates, self.groups[sampled])
            num_units = len(np.unique(self.groups[sampled]))
        return profile_intervals(
            self.likelihood[known],
            self.repeats[known] / effect,
            functionals,
            level=level,
            degrees=num_units - 1,
            start=self.grid.prior,
        )


def fit_mixture(
    num_samples: npt.ArrayLike,
    num_correct: npt.ArrayLike,
    *,
    marks: Sequence[float] = (),
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> MixturePosterior:
    """Fit the mixing distribution of success rates over problems; the module docstring states model and prior.

    Args:
        num_samples: [P] samples with a known outcome; they may differ. A problem without samples is informed by the others only.
        num_correct: [P] successes.
        marks: Increasing rates inside (0, 1) that decide a verdict: epsilon, mastered.
        groups: [P] name of the group of each problem, or None where problems are unrelated.
        seed: Random seed of those draws; the same counts, marks, groups and seed give the same posterior.

    Returns:
        The posterior. Without any data it is the prior.

    Raises:
        ValueError: Bad counts, marks or groups.
    """
    samples, correct = as_counts(num_samples, num_correct)
    cuts = check_edges(marks)
    if groups is not None and len(groups) != samples.size:
        raise ValueError(f"{len(groups)} groups for {samples.size} problems")
    numbers = None
    if groups is not None and len(set(groups)) < samples.size:
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    grid = rate_grid(int(samples.max(initial=0)), tuple(cuts))
    pairs, place, repeats = np.unique(np.stack([samples, correct], axis=1), axis=0, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    likelihood = likelihood_table(pairs[:, 0], pairs[:, 1], grid.rates)
    rng = np.random.default_rng(seed)
    distributions = _draw_distributions(grid, likelihood, place, numbers, rng, smooth=True)
    return MixturePosterior(
        num_samples=samples,
        num_correct=correct,
        grid=grid,
        distributions=distributions,
        pairs=pairs,
        place=place,
        repeats=repeats,
        likelihood=likelihood,
        groups=numbers,
        seed=seed,
    )


def _draw_distributions(
    grid: RateGrid,
    likelihood: FloatArray,
    place: IntArray,
    groups: IntArray | None,
    rng: np.random.Generator,
    *,
    smooth: bool,
) -> FloatArray:
    """[D, K] distributions by the weighted likelihood bootstrap, made of smoothing kernels or of point masses."""
    repeats = np.bincount(place, minlength=len(likelihood))
    if groups is None:
        weights = rng.gamma(np.broadcast_to(repeats.astype(np.float64), (NUM_DISTRIBUTIONS, len(repeats))))
    else:
        members = np.zeros((int(groups.max(initial=-1)) + 1, len(repeats)))
        np.add.at(members, (groups, place), 1.0)
        weights = rng.gamma(1.0, size=(NUM_DISTRIBUTIONS, len(members))) @ members
    pseudo = rng.gamma(np.broadcast_to(PRIOR_PROBLEMS * grid.prior, (NUM_DISTRIBUTIONS, grid.prior.size)))
    if smooth:
        found = _maximize(grid.prior, likelihood @ grid.kernels.T, weights, pseudo) @ grid.kernels
    else:
        found = _maximize(grid.prior, likelihood, weights, pseudo)
    below = found[:, grid.marks] * rng.random((NUM_DISTRIBUTIONS, grid.marks.size))
    found[:, grid.marks - 1] += below
    found[:, grid.marks] -= below
    return found


def _maximize(start: FloatArray, likelihood: FloatArray, weights: FloatArray, pseudo: FloatArray) -> FloatArray:
    """Maximize Σ_u weight log(L_u·w) + Σ_k pseudo_k log w_k over mixing weights w, for every draw.

    Args:
        start: [K]
        likelihood: [U, K]
        weights: [D, U]
        pseudo: [D, K]

    Returns:
        [D, K]
    """
    total = weights.sum(axis=1, keepdims=True) + pseudo.sum(axis=1, keepdims=True)
    table, counted = likelihood.astype(np.float32), (weights / total).astype(np.float32)
    added = (pseudo / total).astype(np.float32)

    def em_step(mixing: MixingWeights) -> MixingWeights:
        evidence = mixing @ table.T
        new = np.divide(counted, evidence, out=evidence) @ table
        new *= mixing
        new += added
        return np.asarray(new)

    return run_squarem(np.broadcast_to(start, pseudo.shape), em_step, SQUAREM_STEPS)


def check_edges(edges: Sequence[float]) -> FloatArray:
    """Return the edges as an array if they increase inside (0, 1).

    Raises:
        ValueError: They do not.
    """
    cuts = np.asarray(edges, dtype=np.float64)
    if cuts.ndim != 1 or np.any(~((cuts > 0.0) & (cuts < 1.0))) or np.any(np.diff(cuts) <= 0):
        raise ValueError(f"edges must rise and lie inside (0, 1), got {list(edges)}")
    return cuts


def _log1m(rates: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-rates))
