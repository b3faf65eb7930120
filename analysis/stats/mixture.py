"""How success rates are spread over problems, and what that says about each one of them.

    p_i ~ π0·δ(0) + π1·δ(1) + (1 − π0 − π1)·Beta(a, b),      c_i ~ Binomial(n_i, p_i)

Some problems are out of reach, some are mastered, and the rates of the others are spread. The number of samples may differ
between problems, and may have been chosen by looking at earlier samples: the likelihood does not mind (arXiv 2510.05197).

**Prior.** π0 ~ Beta(⅓, 1) (mean ¼). π1/(1−π0) ~ Beta(1, 4). The mean m = a/(a+b) is flat in logit(m) on [1e-5, 1 − 1e-5], which
near zero is flat in log(m): a rate of 1e-4 is as likely beforehand as one of 1e-3. The concentration s = a + b is log-normal
around 2 with a spread of 1.5 in log(s), cut to [.02, 2000]. All four are integrated over a grid that is laid anew, ever closer,
around where the posterior lies.

**Why π0 leans to zero.** A uniform π0 takes merely hard problems for impossible ones. Measured for this project (200 problems, 32
samples, 40 replicates, pass@1024): where no problem is impossible and p ~ Beta(.3, 1.2), it ends .063 too low and its interval
covers .75, with Beta(⅓, 1) .036 and .93. Where 20 % are impossible and the rest Beta(.5, 1), it errs by .000 against +.019,
covering .93 and .95; where 40 % are impossible the two agree.

**Why zeros need this.** Under a uniform prior for every problem, 24 problems without a success in 16 samples would "pass" half
the time within 128 attempts. And no data without successes tell π0 from a Beta close to zero: `identified` says so, and every
number below is averaged over both readings.

**What it cannot know.** Where n does not resolve a rate (n < 3/rate), shares below that rate lean on the prior: 24 problems all
at rate .01 look, at 16 samples, as if 70 % of them were below .0064. A tight heap short of one (30 % of problems at .98) is
neither a Beta nor the heap at one: shares above .9 then come out .02 too low, below their interval in a third of the cases.

**Why the heap at one.** A Beta that must cover a heap of mastered problems is bent into a U, and then claims some of the heap at
zero too. Measured for this project (200 problems, 32 samples, π0 = .2, π1 = .3, the rest Beta(2, 3)): without the heap at one π0
comes out as .08 and 90 % intervals of single problems cover .68; with it .20 and .94. Where there is no such heap, it changes
next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, expit

from posttrain.analysis.stats.arrays import FloatArray, IntArray, as_counts, check_k, check_level
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.mixture_grid import HyperGrid, integrate

CHUNK = 2_000_000
"""Numbers held at once where problems, hyperparameters and edges meet."""


@dataclass(frozen=True)
class MixturePosterior:
    """What the counts say about the spread of success rates and about every problem. Made by `fit_mixture`."""

    num_samples: IntArray
    """[P]"""
    num_correct: IntArray
    """[P]"""
    grid: HyperGrid
    """Posterior weights of the hyperparameters."""

    def state_probabilities(self, edges: Sequence[float]) -> FloatArray:
        """Posterior probability that each problem's success rate lies in each interval.

        Args:
            edges: E rising numbers inside (0, 1); the intervals are [0, e1), [e1, e2), ..., [eE, 1]. Rate 0 counts in the first,
                1 in the last.

        Returns:
            [P, E + 1], rows sum to one.

        Raises:
            ValueError: edges that do not rise or lie outside (0, 1).
        """
        cuts = _check_edges(edges)
        n, c = self._pairs.T
        zero, spread, _ = self._responsibilities
        below = np.empty((len(n), len(cuts)))
        step = max(1, CHUNK // max(1, self.grid.alpha.size * len(cuts)))
        for start in range(0, len(n), step):
            rows = slice(start, start + step)
            inside = betainc(
                self.grid.alpha[None, :, None] + c[rows, None, None],
                self.grid.beta[None, :, None] + (n - c)[rows, None, None],
                cuts[None, None, :],
            )
            below[rows] = np.einsum("uh,uhe->ue", spread[rows], inside)
        below += zero[:, None]
        return _differences(below)[self._inverse]

    def share_probabilities(self, edges: Sequence[float], *, rng: np.random.Generator, num_draws: int = 2000) -> FloatArray:
        """Posterior draws of the share of *these* problems whose success rate lies in each interval.

        Each draw takes hyperparameters from their posterior and then a rate for every problem, so that the shares carry both the
        doubt about the spread of rates and that about single problems. Quantiles of a column are an interval for that share.

        Args:
            edges: as in `state_probabilities`.
            rng: where the draws come from.
            num_draws: number of draws D.

        Returns:
            [D, E + 1] shares, rows sum to one; NaN where there is no problem.

        Raises:
            ValueError: bad edges or num_draws below 1.
        """
        cuts = _check_edges(edges)
        rows, columns = self._draw_cells(rng, num_draws)
        if self.num_samples.size == 0:
            return np.full((num_draws, len(cuts) + 1), np.nan)
        # Problems with equal counts have equal chances, and each falls into one interval: a multinomial draws them all at once.
        used, index = np.unique(rows, return_inverse=True)
        counts = np.zeros((num_draws, len(cuts) + 1), dtype=np.int64)
        for (n, c), repeats in zip(self._pairs, self._repeats, strict=True):
            a, b = self.grid.alpha[used] + c, self.grid.beta[used] + (n - c)
            inside = betainc(a[:, None], b[:, None], cuts[None, :])[index]
            zero, one = self._atoms(n, c, rows, columns)
            below = zero[:, None] + (1.0 - zero - one)[:, None] * inside
            chances = np.clip(_differences(below), 0.0, 1.0)
            counts += rng.multinomial(repeats, chances / chances.sum(axis=1, keepdims=True))
        return counts / self.num_samples.size

    def draw_rates(self, *, rng: np.random.Generator, num_draws: int) -> FloatArray:
        """Posterior draws of every problem's success rate, with hyperparameters drawn anew each time.

        Args:
            rng: where the draws come from.
            num_draws: number of draws D.

        Returns:
            [D, P] rates in [0, 1].

        Raises:
            ValueError: num_draws below 1.
        """
        rows, columns = self._draw_cells(rng, num_draws)
        rates = np.empty((num_draws, self.num_samples.size))
        for index, (n, c) in enumerate(self._pairs):
            zero, one = self._atoms(n, c, rows, columns)
            (members,) = np.nonzero(self._inverse == index)
            size = (num_draws, members.size)
            a, b = self.grid.alpha[rows] + c, self.grid.beta[rows] + (n - c)
            drawn = rng.beta(a[:, None], b[:, None], size)
            which = rng.random(size)
            drawn = np.where(which < zero[:, None], 0.0, np.where(which >= 1.0 - one[:, None], 1.0, drawn))
            rates[:, members] = drawn
        return rates

    def problem_interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Posterior mean and equal-tailed interval of every problem's success rate.

        Args:
            level: posterior probability inside the interval.

        Returns:
            Three arrays [P]: mean, low, high. Low is 0 where the chance of rate 0 exceeds the lower tail, and high is 1 likewise.
            No end comes closer to the 0 or 1 of a problem that always failed or always passed than all N samples together could
            prove: 1 − tail^(1/N). So it never has zero width, and a prior alone never makes a rate impossible.

        Raises:
            ValueError: level outside (0, 1).
        """
        check_level(level)
        n, c = self._pairs.T
        zero, spread, one = self._responsibilities
        a, b = self.grid.alpha, self.grid.beta
        mean = one + np.sum(spread * (a + c[:, None]) / (a + b + n[:, None]), axis=1)
        low, high = np.empty(len(n)), np.empty(len(n))
        # Densities on the logit scale have no singularities, so sums over an even grid are exact to rounding. What lies beyond
        # the grid (possible where a or b is close to zero) counts as rate 0 or 1.
        edge = 21.0
        spacing = min(0.02, 1.0 / np.sqrt(max(1.0, float(n.max(initial=1)))))
        x = np.linspace(-edge, edge, 1 + int(min(16384, np.ceil(2 * edge / spacing))))
        log_p, log_q = -np.logaddexp(0.0, -x), -np.logaddexp(0.0, x)
        density = np.exp(a[:, None] * log_p + b[:, None] * log_q - betaln(a, b)[:, None])
        tail = expit(-edge)
        step = max(1, CHUNK // max(len(x), len(a)))
        for first in range(0, len(n), step):
            rows = slice(first, first + step)
            right, wrong = c[rows, None], (n - c)[rows, None]
            log_marginal = betaln(a + right, b + wrong) - betaln(a, b)
            weight = spread[rows] * np.exp(log_marginal.min(axis=1, keepdims=True) - log_marginal)
            log_likelihood = right * log_p + wrong * log_q
            body = (weight @ density) * np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
            steps = np.zeros(body.shape)
            np.cumsum((body[:, 1:] + body[:, :-1]) / 2, axis=1, out=steps[:, 1:])
            for u, cumulative in enumerate(steps, start=first):
                under = float(spread[u] @ betainc(a, b + n[u], tail)) if c[u] == 0 else 0.0
                over = float(spread[u] @ betainc(b, a + n[u], tail)) if c[u] == n[u] else 0.0
                mass = max(1e-300, float(spread[u].sum()) - under - over)
                cumulative /= max(1e-300, float(cumulative[-1]))
                for target, out in (((1 - level) / 2, low), ((1 + level) / 2, high)):
                    place = (target - zero[u] - under) / mass
                    out[u] = 0.0 if place <= 0.0 else 1.0 if place >= 1.0 else expit(np.interp(place, cumulative, x))
        never_closer = -np.expm1(np.log((1 - level) / 2) / max(1, int(self.num_samples.sum())))
        high = np.where(c == 0, np.maximum(high, never_closer), high)
        low = np.where(c == n, np.minimum(low, 1.0 - never_closer), low)
        return mean[self._inverse], low[self._inverse], high[self._inverse]

    def pass_at_k(self, k: int, *, rng: np.random.Generator, num_draws: int = 2000, level: float = 0.95) -> Interval:
        """Posterior of the mean pass@k over the population of problems, also for k beyond the samples drawn.

        Args:
            k: attempts, at least 1.
            rng: where the draws of hyperparameters come from.
            num_draws: number of draws behind the interval. The estimate is the exact posterior mean.
            level: posterior probability inside the interval.

        Returns:
            Estimate and interval.

        Raises:
            ValueError: k or num_draws below 1, or a level outside (0, 1).

        Source: beta-binomial extrapolation of pass@k, arXiv 2510.05197, here with heaps at zero and one.
        """
        check_k(k)
        check_level(level)
        grid = self.grid
        hit = -np.expm1(betaln(grid.alpha, grid.beta + k) - betaln(grid.alpha, grid.beta))
        spread = 1.0 - grid.zero_share - grid.one_share
        estimate = float(np.sum(grid.weight * (grid.one_share[None, :] + hit[:, None] * spread[None, :])))
        rows, columns = self._draw_cells(rng, num_draws)
        draws = grid.one_share[columns] + spread[columns] * hit[rows]
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return Interval(estimate, min(float(low), estimate), max(float(high), estimate), "fitted mixture, population of problems")

    def impossible_mass(self, level: float = 0.95) -> Interval:
        """Posterior of π0, the share of the population of problems whose success rate is exactly zero.

        Read it with `identified`: where the data cannot tell zero from small, this interval is wide.

        Args:
            level: posterior probability inside the interval.

        Raises:
            ValueError: level outside (0, 1).
        """
        check_level(level)
        grid = self.grid
        estimate = float(grid.weight.sum(axis=0) @ grid.zero_share)
        cumulative = np.concatenate([[0.0], np.cumsum(grid.zero_mass)])
        low, high = np.interp([(1 - level) / 2, (1 + level) / 2], cumulative, grid.zero_edges)
        return Interval(estimate, min(float(low), estimate), max(float(high), estimate), "fitted mixture")

    @property
    def identified(self) -> str:
        """Whether the data tell problems that are impossible from problems that are merely hard.

        `identified`: the 95 % interval of π0 is at most .25 wide. `bounded`: at most .6. `not_identified`: wider; then shares
        below a rate are to be believed, and the split of them into impossible and hard is the prior's.
        """
        interval = self.impossible_mass()
        width = interval.high - interval.low
        return "identified" if width <= 0.25 else "bounded" if width <= 0.6 else "not_identified"

    @cached_property
    def _unique(self) -> tuple[IntArray, IntArray, IntArray]:
        table = np.stack([self.num_samples, self.num_correct], axis=1)
        pairs, inverse, repeats = np.unique(table, axis=0, return_inverse=True, return_counts=True)
        return pairs, inverse.reshape(-1), repeats

    @property
    def _pairs(self) -> IntArray:
        return self._unique[0]

    @property
    def _inverse(self) -> IntArray:
        return self._unique[1]

    @property
    def _repeats(self) -> IntArray:
        return self._unique[2]

    @cached_property
    def _responsibilities(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Posterior chance, per unique pair u, of rate zero [U], of the Beta with each (a, b) [U, H], and of rate one [U]."""
        grid = self.grid
        num_pairs = len(self._pairs)
        zero, one = np.zeros(num_pairs), np.zeros(num_pairs)
        spread = np.empty((num_pairs, grid.alpha.size))
        everywhere = np.ix_(np.arange(grid.alpha.size), np.arange(grid.zero_share.size))
        rows, columns = np.broadcast_arrays(*everywhere)
        total = grid.weight.sum(axis=1)
        for u, (n, c) in enumerate(self._pairs):
            if 0 < c < n:
                spread[u] = total
                continue
            at_zero, at_one = self._atoms(n, c, rows, columns)
            zero[u], one[u] = np.sum(grid.weight * at_zero), np.sum(grid.weight * at_one)
            spread[u] = np.sum(grid.weight * (1.0 - at_zero - at_one), axis=1)
        return zero, spread, one

    def _atoms(self, n: int, c: int, rows: IntArray, columns: IntArray) -> tuple[FloatArray, FloatArray]:
        """Chance that a problem with c of n has rate zero, and rate one, given the hyperparameters in cells (rows, columns)."""
        if 0 < c < n:
            return np.zeros(rows.shape), np.zeros(rows.shape)
        grid = self.grid
        marginal = np.exp(betaln(grid.alpha + c, grid.beta + (n - c)) - betaln(grid.alpha, grid.beta))[rows]
        zero_share, one_share = grid.zero_share[columns], grid.one_share[columns]
        at_zero = zero_share if c == 0 else np.zeros(rows.shape)
        at_one = one_share if c == n else np.zeros(rows.shape)
        evidence = at_zero + at_one + (1.0 - zero_share - one_share) * marginal
        return at_zero / evidence, at_one / evidence

    def _draw_cells(self, rng: np.random.Generator, num_draws: int) -> tuple[IntArray, IntArray]:
        if num_draws < 1:
            raise ValueError(f"num_draws must be at least 1, got {num_draws}")
        cells = rng.choice(self.grid.weight.size, size=num_draws, p=self.grid.weight.reshape(-1))
        rows, columns = np.divmod(cells, self.grid.weight.shape[1])
        return rows, columns


def fit_mixture(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike) -> MixturePosterior:
    """Fit the spread of success rates over problems; the module's docstring states model and prior.

    Args:
        num_samples: [P] samples with a known outcome; they may differ. A problem without samples learns from the others only.
        num_correct: [P] successes.

    Returns:
        The posterior. Without any data it is the prior.

    Raises:
        ValueError: bad counts.

    Source: beta-binomial over problems, arXiv 2510.05197; zero inflation because a plain Beta has no mass at zero.
    """
    samples, correct = as_counts(num_samples, num_correct)
    return MixturePosterior(num_samples=samples, num_correct=correct, grid=integrate(samples, correct))


def _check_edges(edges: Sequence[float]) -> FloatArray:
    cuts = np.asarray(edges, dtype=np.float64)
    if cuts.ndim != 1 or np.any(~((cuts > 0.0) & (cuts < 1.0))) or np.any(np.diff(cuts) <= 0):
        raise ValueError(f"edges must rise and lie inside (0, 1), got {list(edges)}")
    return cuts


def _differences(below: FloatArray) -> FloatArray:
    """Turn chances of lying below each edge [..., E] into chances of each interval [..., E + 1]."""
    start, end = np.zeros_like(below[..., :1]), np.ones_like(below[..., :1])
    if below.shape[-1] == 0:
        return np.ones((*below.shape[:-1], 1))
    return np.maximum(np.diff(np.concatenate([start, below, end], axis=-1), axis=-1), 0.0)
