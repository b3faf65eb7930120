"""How success rates are spread over problems, and what that says about each one of them.

    p_i ~ G,      c_i ~ Binomial(n_i, p_i),      G any law on a fine grid of rates that includes 0, 1 and the thresholds

The number of samples may differ between problems, and may have been chosen by looking at earlier samples: the likelihood does not
mind (arXiv 2510.05197).

**Prior.** G ~ Dirichlet process with the base of `rate_grid` (a quarter at 0, a twentieth at 1, a tenth at each threshold, the rest even
in log-odds, so that near zero a rate of 1e-4 is as likely beforehand as one of 1e-3) and the weight of `PRIOR_PROBLEMS` problems.

**Posterior** by the weighted likelihood bootstrap: each draw gives every problem (every group, where problems are related) a random
weight Gamma(1), every grid point a random prior weight, and maximises the weighted likelihood by accelerated EM from the base: some
hundred matrix products for all draws at once, however many problems there are. Where samples cannot tell two rates apart, EM leaves
them in the proportion of the base.

**Why no parametric law.** A zero-inflated beta (`fit_mixture_ml`) is sharper where it is true. Where it is not, it is sure and wrong:
measured for this project over simulated behaviors of many laws (`benchmarks/calibration.py`), labels that a beta mixture held
with a confidence of .99 were right in .95 of cases, those of this model in more than .99.

**Why points at the thresholds.** Under a smooth prior, a problem that lies *at* a threshold is sooner or later called one side or
the other, and peeking makes it sooner. Where the law may heap up at the threshold, evidence has to beat "it lies there" first.
What lies there may lie a hair to either side, all of it or any part: each draw of the law splits it at random.

**Why zeros need this.** Under a uniform prior for every problem, 24 problems without a success in 16 samples would "pass" half
the time within 128 attempts.

**Why half of the draws of a label are not smoothed.** A smooth law is right about single problems, whose rates are seldom equal, and
its intervals for them cover. But where problems do share a rate near a threshold, it puts part of them on either side and is sure of
that share. A label is what smooth laws and laws of heaps agree on (`benchmarks/label_ties.py`).

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
from posttrain.analysis.stats.expectation import Laws, climb
from posttrain.analysis.stats.intervals import design_effect
from posttrain.analysis.stats.law_intervals import LawInterval, law_intervals
from posttrain.analysis.stats.rate_grid import RateGrid, likelihood_table, rate_grid

PRIOR_PROBLEMS = 4.0
"""How many problems the prior law weighs as much as."""
NUM_LAWS = 256
"""Posterior draws of the law."""
AT_ONCE = 64
"""Draws of all problems' states that are held in memory together."""
LEAPS = 15
"""Accelerated EM steps, each worth about ten plain ones."""


@dataclass(frozen=True)
class MixturePosterior:
    """What the counts say about the law of success rates and about every problem. Made by `fit_mixture`."""

    num_samples: IntArray
    """[P]"""
    num_correct: IntArray
    """[P]"""
    grid: RateGrid
    """K rates and their prior."""
    laws: FloatArray
    """[D, K] posterior draws of the law, smooth, rows sum to one."""
    pairs: IntArray
    """[U, 2] the distinct counts (n, c)."""
    place: IntArray
    """[P] which of them a problem has."""
    repeats: IntArray
    """[U] how many problems have it."""
    likelihood: FloatArray
    """[U, K]"""
    groups: IntArray | None
    """[P] number of each problem's group, None where every problem is one of its own."""
    seed: int
    """Of the draws."""

    # ------------------------------------------------------------------------------------------------------------- problems

    @cached_property
    def pair_posterior(self) -> FloatArray:
        """[U, K] posterior of the rate of a problem with each distinct count."""
        return np.asarray(self.likelihood * ((1.0 / self._evidence(self.laws)).T @ self.laws) / len(self.laws))

    @cached_property
    def heaped_laws(self) -> FloatArray:
        """[D, K] posterior draws of the law that are not smoothed: problems may share a rate, wherever it lies."""
        rng = np.random.default_rng([self.seed, 1])
        return _draw_laws(self.grid, self.likelihood, self.place, self.groups, len(self.laws), rng, smooth=False)

    def _evidence(self, laws: FloatArray) -> FloatArray:
        """[D, U] likelihood of each distinct count under each law."""
        return np.asarray(np.maximum(laws @ self.likelihood.T, 1e-300))

    def state_probabilities(self, edges: Sequence[float], *, strict: bool = False) -> FloatArray:
        """Posterior probability that each problem's success rate lies in each interval.

        Args:
            edges: E rising numbers inside (0, 1); the intervals are [0, e1), [e1, e2), ..., [eE, 1]. Give those that are to bear
                weight as `marks` to `fit_mixture`.
            strict: leave out what lies exactly at an edge, so that rows sum to less than one by the chance of lying there.

        Returns:
            [P, E + 1]

        Raises:
            ValueError: edges that do not rise or lie outside (0, 1).
        """
        return (self.pair_posterior @ self.state_matrix(edges, strict=strict))[self.place]

    def state_matrix(self, edges: Sequence[float], *, strict: bool = False) -> FloatArray:
        """[K, E + 1] whether each rate of the grid lies in each interval; arguments as in `state_probabilities`."""
        cuts = check_edges(edges)
        rates = self.grid.rates
        index = np.searchsorted(cuts, rates, side="right")
        matrix: FloatArray = (index[:, None] == np.arange(len(cuts) + 1)).astype(np.float64)
        if strict:
            matrix[np.isin(rates, cuts) | np.isin(rates, np.nextafter(cuts, 0.0))] = 0.0
        return matrix

    def draw_states(
        self, edges: Sequence[float], *, rng: np.random.Generator, num_draws: int = 1024
    ) -> tuple[IntArray, FloatArray]:
        """Posterior draws of how many of *these* problems lie in each interval, and of their mean success rate.

        Args:
            edges: as in `state_probabilities`.
            rng: where the draws come from.
            num_draws: number of draws D; one half goes through the smooth laws one after the other, one through the others.

        Returns:
            [D, E + 1] numbers of problems, each row summing to P, and [D] mean rates, NaN without problems. Given the law, the mean
            is drawn from the normal distribution with its exact mean and variance, on its own.

        Raises:
            ValueError: bad edges or num_draws below 1.
        """
        matrix = self.state_matrix(edges)
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        half = (num_draws + 1) // 2
        drawn = [
            self._draw_states_under(laws, matrix, rng, num)
            for laws, num in ((self.laws, half), (self.heaped_laws, num_draws - half))
        ]
        counts, totals = (np.concatenate(part) for part in zip(*drawn, strict=True))
        num_problems = self.num_samples.size
        mean = totals / num_problems if num_problems else np.full(num_draws, np.nan)
        return counts, np.clip(mean, 0.0, 1.0)

    def _draw_states_under(
        self, laws: FloatArray, matrix: FloatArray, rng: np.random.Generator, num_draws: int
    ) -> tuple[IntArray, FloatArray]:
        """[D, E + 1] numbers of problems and [D] sums of their rates, laws in turn."""
        rates, evidence = self.grid.rates, self._evidence(laws)
        features = np.concatenate([matrix, rates[:, None], rates[:, None] ** 2], axis=1)
        means = np.stack([(laws * column) @ self.likelihood.T / evidence for column in features.T], axis=2)
        chances = np.maximum(means[:, :, : matrix.shape[1]], 0.0)
        chances /= np.maximum(chances.sum(axis=2, keepdims=True), 1e-300)
        centre = means[:, :, -2] @ self.repeats
        spread = np.sqrt(np.maximum(means[:, :, -1] - means[:, :, -2] ** 2, 0.0) @ self.repeats)
        turn = np.arange(num_draws) % len(laws)
        counts = [
            rng.multinomial(self.repeats, chances[turn[first : first + AT_ONCE]]).sum(axis=1)
            for first in range(0, max(1, num_draws), AT_ONCE)
        ]
        return np.concatenate(counts), rng.normal(centre[turn], spread[turn])

    def draw_rates(self, *, rng: np.random.Generator, num_draws: int) -> FloatArray:
        """Posterior draws of every problem's success rate, one law after the other.

        Args:
            rng: where the draws come from.
            num_draws: number of draws D.

        Returns:
            [D, P] rates in [0, 1].

        Raises:
            ValueError: num_draws below 1.
        """
        laws = self._pick_laws(num_draws)
        rates = np.empty((num_draws, self.num_samples.size))
        for index, row in enumerate(self.likelihood):
            cumulative = np.cumsum(self.laws * row, axis=1)
            cumulative /= cumulative[:, -1:]
            (members,) = np.nonzero(self.place == index)
            # Row d of the flattened table lies in (d, d + 1], so that one search serves all rows.
            ladder = (cumulative + np.arange(len(self.laws))[:, None]).reshape(-1)
            wanted = rng.random((num_draws, members.size)) + laws[:, None]
            found = np.searchsorted(ladder, wanted.reshape(-1), side="left").reshape(wanted.shape)
            rates[:, members] = self.grid.rates[
                np.clip(found - laws[:, None] * self.grid.rates.size, 0, self.grid.rates.size - 1)
            ]
        return rates

    def problem_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Posterior mean and equal-tailed interval of every problem's success rate.

        Args:
            level: posterior probability inside the interval.

        Returns:
            Three arrays [P]: mean, low, high, the ends being rates of the grid. No end comes closer to the 0 or 1 of a problem that
            always failed or always passed than all N samples together could prove: 1 − tail^(1/N). So it never has zero width,
            and a prior alone never makes a rate impossible.

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

    def pass_at_k(self, k: int, *, level: float = 0.95) -> LawInterval:
        """Mean pass@k over the population of problems, also for k beyond the samples drawn.

        Args:
            k: attempts, at least 1.
            level: confidence.

        Returns:
            Maximum-likelihood estimate and profile interval over all laws; bounds alone where the data do not identify it.

        Raises:
            ValueError: k below 1, or a level outside (0, 1).

        Source: arXiv 2510.05197, with any law in place of a beta.
        """
        return self.pass_at_ks([k], level=level)[0]

    def pass_at_ks(self, ks: Sequence[int], *, level: float = 0.95) -> list[LawInterval]:
        """`pass_at_k` for several k at once, which costs little more than for one."""
        for k in ks:
            check_k(k)
        return self._intervals(np.array([-np.expm1(k * _log1m(self.grid.rates)) for k in ks]), level)

    def share_below(self, rate: float, *, level: float = 0.95) -> LawInterval:
        """Share of the population of problems with a success rate below `rate`.

        Args:
            rate: inside (0, 1).
            level: confidence.

        Raises:
            ValueError: arguments out of range.
        """
        check_edges([rate])
        return self._intervals((self.grid.rates < rate).astype(np.float64)[None, :], level)[0]

    def impossible_mass(self, *, level: float = 0.95) -> LawInterval:
        """Share π0 of the population of problems whose success rate is exactly zero.

        Only its upper end is ever known without assuming a shape: no samples tell 0 from a rate far below 1/n. `share_below` asks what
        samples can answer, and `fit_mixture_ml` gives π0 under a beta law.

        Args:
            level: confidence.
        """
        return self._intervals((self.grid.rates == 0.0).astype(np.float64)[None, :], level)[0]

    def _intervals(self, functionals: FloatArray, level: float) -> list[LawInterval]:
        check_level(level)
        sampled = self.num_samples > 0
        known = self.pairs[:, 0] > 0
        num_units = int(sampled.sum())
        effect = 1.0
        if self.groups is not None and num_units:
            rates = self.num_correct[sampled] / self.num_samples[sampled]
            effect = design_effect(rates, self.groups[sampled])
            num_units = len(np.unique(self.groups[sampled]))
        return law_intervals(
            self.likelihood[known],
            self.repeats[known] / effect,
            functionals,
            level=level,
            degrees=num_units - 1,
            start=self.grid.prior,
        )

    def _pick_laws(self, num_draws: int) -> IntArray:
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        return np.arange(num_draws) % len(self.laws)


def fit_mixture(
    num_samples: npt.ArrayLike,
    num_correct: npt.ArrayLike,
    *,
    marks: Sequence[float] = (),
    groups: Sequence[str] | None = None,
    num_laws: int = NUM_LAWS,
    seed: int = 0,
) -> MixturePosterior:
    """Fit the law of success rates over problems; the module's docstring states model and prior.

    Args:
        num_samples: [P] samples with a known outcome; they may differ. A problem without samples learns from the others only.
        num_correct: [P] successes.
        marks: rising rates inside (0, 1) on which a verdict hangs: epsilon, mastered.
        groups: [P] name of the cluster of each problem, or None where every problem is one of its own.
        num_laws: posterior draws of the law.
        seed: of those draws; the same counts, marks, groups and seed give the same posterior.

    Returns:
        The posterior. Without any data it is the prior.

    Raises:
        ValueError: bad counts, marks or groups.
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
    laws = _draw_laws(grid, likelihood, place, numbers, num_laws, np.random.default_rng(seed), smooth=True)
    return MixturePosterior(
        num_samples=samples,
        num_correct=correct,
        grid=grid,
        laws=laws,
        pairs=pairs,
        place=place,
        repeats=repeats,
        likelihood=likelihood,
        groups=numbers,
        seed=seed,
    )


def _draw_laws(
    grid: RateGrid,
    likelihood: FloatArray,
    place: IntArray,
    groups: IntArray | None,
    num_laws: int,
    rng: np.random.Generator,
    *,
    smooth: bool,
) -> FloatArray:
    """[D, K] laws by the weighted likelihood bootstrap, made of bumps or of points."""
    repeats = np.bincount(place, minlength=len(likelihood))
    if groups is None:
        weights = rng.gamma(np.broadcast_to(repeats.astype(np.float64), (num_laws, len(repeats))))
    else:
        members = np.zeros((int(groups.max(initial=-1)) + 1, len(repeats)))
        np.add.at(members, (groups, place), 1.0)
        weights = rng.gamma(1.0, size=(num_laws, len(members))) @ members
    pseudo = rng.gamma(np.broadcast_to(PRIOR_PROBLEMS * grid.prior, (num_laws, grid.prior.size)))
    if smooth:
        laws = _laws(grid.prior, likelihood @ grid.bumps.T, weights, pseudo) @ grid.bumps
    else:
        laws = _laws(grid.prior, likelihood, weights, pseudo)
    below = laws[:, grid.marks] * rng.random((num_laws, grid.marks.size))
    laws[:, grid.marks - 1] += below
    laws[:, grid.marks] -= below
    return laws


def _laws(start: FloatArray, likelihood: FloatArray, weights: FloatArray, pseudo: FloatArray) -> FloatArray:
    """Maximise Σ_u weight log(L_u·w) + Σ_k pseudo_k log w_k over laws w, for every draw.

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

    def step(laws: Laws) -> Laws:
        evidence = laws @ table.T
        new = np.divide(counted, evidence, out=evidence) @ table
        new *= laws
        new += added
        return np.asarray(new)

    return climb(np.broadcast_to(start, pseudo.shape), step, LEAPS)


def check_edges(edges: Sequence[float]) -> FloatArray:
    """The edges as an array, if they rise inside (0, 1).

    Raises:
        ValueError: they do not.
    """
    cuts = np.asarray(edges, dtype=np.float64)
    if cuts.ndim != 1 or np.any(~((cuts > 0.0) & (cuts < 1.0))) or np.any(np.diff(cuts) <= 0):
        raise ValueError(f"edges must rise and lie inside (0, 1), got {list(edges)}")
    return cuts


def _log1m(rates: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log1p(-rates))
