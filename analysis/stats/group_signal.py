"""How many groups of samples will carry no learning signal, and why.

A trainer that compares the samples of one prompt with each other (GRPO, RLOO and their relatives) learns from a group only where its rewards
differ. Of a problem with success rate p, a group of G samples has a share (1 − p)^G without a success and a share p^G without a failure.
Their mean over problems is what is estimated here, by cause:

* too easy: every sample is a success;
* format: no success, but a sample that is right under the lenient reading;
* truncated, unread, too hard: no success under either reading. Such a group counts for each of the three by how often the samples of its problem that
  failed ran into the token limit, could not be read, or were read and are wrong;
* missing grade: the group would have a signal if the verifier had graded all its samples.

**Estimates.** Up to the number of samples that every problem has, 1 − pass@G of the successes, and of the failures, is unbiased, and a mean over problems has
the interval of `mean_interval`. Beyond, and after adaptive sampling, the expectation is that under the posterior of each problem's rate
(`mixture`), and the interval the profile one over all distributions of rates, which holds what the samples cannot tell. How often the intervals hold
the truth: `benchmarks/group_signal.py`.

Scores between 0 and 1 are rewards too: failures of one group then differ unless all have one score (`ScoreTies`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import scipy

from posttrain.analysis.stats.arrays import FloatArray, IntArray
from posttrain.analysis.stats.estimators import pass_at_k
from posttrain.analysis.stats.intervals import Interval, mean_interval
from posttrain.analysis.stats.mixture import MixturePosterior, fit_mixture

LEVEL = 0.95
GROUP_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""At which a forecast is made."""


class NoSignal(StrEnum):
    """Why the rewards of a group do not differ, in the order in which to do something about it."""

    MISSING_GRADE = "missing_grade"
    FORMAT = "format"
    TRUNCATED = "truncated"
    UNREAD = "unread"
    TOO_HARD = "too_hard"
    TOO_EASY = "too_easy"


@dataclass(frozen=True, slots=True)
class ScoreTies:
    """How many samples of a problem have the same score."""

    problem: IntArray
    """[T] index of a problem."""
    count: IntArray
    """[T] how many of its samples have one score; each different score is a row."""

    def all_same(self, size: int, num_problems: int) -> FloatArray:
        """Return [P] the chance that `size` of a problem's samples have one score; 1 where it has none."""
        total = np.bincount(self.problem, weights=self.count, minlength=num_problems)
        of_row = total[self.problem]
        with np.errstate(invalid="ignore"):
            pairs = np.exp(_log_choose(self.count, size) - _log_choose(of_row, size))
        chance = np.where(of_row >= size, pairs, (self.count / np.maximum(of_row, 1.0)) ** size)
        return np.where(total > 0, np.bincount(self.problem, weights=chance, minlength=num_problems), 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupOutcomes:
    """What is known of the samples of each problem (arrays of length P)."""

    num_samples: IntArray
    """Samples with a grade."""
    num_correct: IntArray
    num_lenient: IntArray
    """Right under the lenient reading; successes are counted in."""
    num_truncated: IntArray
    """Of those that are right under neither reading."""
    num_unread: IntArray
    """Likewise, not truncated."""
    num_missing: IntArray
    """Samples without a grade."""
    groups: tuple[str, ...]
    """What each problem is related to, its own name where nothing is."""
    equally: bool
    """Whether every problem was sampled equally often."""
    failures: ScoreTies | None = None
    """Scores of the failures; None where all are equal."""
    successes: ScoreTies | None = None

    @property
    def most_observed(self) -> int:
        """Return the largest group size for which the samples give an unbiased estimate; 0 for none."""
        sampled = self.num_samples[self.num_samples > 0]
        return int(sampled.min()) if self.equally and sampled.size else 0


@dataclass(frozen=True, slots=True)
class SignalShare:
    """The share of groups of one size that carry no signal."""

    group_size: int
    total: Interval
    causes: Mapping[NoSignal, Interval]
    """They sum to the total."""
    extrapolated: bool
    """Whether some problem has fewer samples than a group."""


class GroupSignal:
    """Expected groups without signal, for any group size.

    Args:
        outcomes: What is known of the samples; some problem has a grade.
        seed: Random seed of the posterior.
        mixture: The fit of the successes where there is one already.

    Raises:
        ValueError: No sample has a grade.
    """

    def __init__(self, outcomes: GroupOutcomes, *, seed: int = 0, mixture: MixturePosterior | None = None):
        if not outcomes.num_samples.any():
            raise ValueError("outcomes: no sample has a grade; a forecast needs some")
        self.outcomes = outcomes
        self._groups = None if len(set(outcomes.groups)) == len(outcomes.groups) else outcomes.groups
        self._strict = mixture or fit_mixture(outcomes.num_samples, outcomes.num_correct, groups=outcomes.groups, seed=seed)
        same = bool((outcomes.num_lenient == outcomes.num_correct).all())
        self._lenient = (
            self._strict if same else fit_mixture(outcomes.num_samples, outcomes.num_lenient, groups=outcomes.groups, seed=seed)
        )

    def share(self, size: int) -> SignalShare:
        """Estimate the share of groups of this size without signal, over the population that the problems come from.

        Args:
            size: G, at least 2.

        Raises:
            ValueError: A group of fewer than two.
        """
        observed = size <= self.outcomes.most_observed
        parts = self._parts(size, observed=observed)
        found = {cause: mean_interval(values, self._groups, level=LEVEL) for cause, values in parts.items()}
        if observed:
            total = mean_interval(np.sum(list(parts.values()), axis=0).clip(0.0, 1.0), self._groups, level=LEVEL)
            return SignalShare(size, total, found, extrapolated=False)
        hard, easy, both = self._strict.groups_without_signal(size, level=LEVEL)
        whole = {cause: float(values.mean()) for cause, values in parts.items()}
        of_hard = [cause for cause in whole if cause not in (NoSignal.TOO_EASY, NoSignal.MISSING_GRADE)]
        missing = whole[NoSignal.MISSING_GRADE]
        graded = sum(whole[cause] for cause in of_hard) + whole[NoSignal.TOO_EASY]
        # What the intervals of the mixture are of: groups whose samples all succeed or all fail, whether their scores differ or not.
        no_success, no_failure = (
            max(float(values.mean()), 1e-12)
            for values in self._expect(self._strict, self.outcomes.num_correct, size, observed=False)
        )
        scaled: dict[NoSignal, Interval] = {cause: _scaled(found[cause], hard, no_success) for cause in of_hard}
        scaled[NoSignal.TOO_EASY] = _scaled(found[NoSignal.TOO_EASY], easy, no_failure)
        scaled[NoSignal.MISSING_GRADE] = found[NoSignal.MISSING_GRADE]
        differ = self.outcomes.failures is not None or self.outcomes.successes is not None
        ties = graded / (no_success + no_failure) if differ else 1.0
        low, high = both.low * ties + found[NoSignal.MISSING_GRADE].low * bool(missing), both.high * ties + missing
        if differ:  # how often scores differ varies over problems too, which the interval of the mixture does not know
            spread = mean_interval(np.sum(list(parts.values()), axis=0).clip(0.0, 1.0), self._groups, level=LEVEL)
            low, high = min(low, spread.low), max(high, spread.high)
        total = Interval(both.estimate * ties + missing, max(0.0, low), min(1.0, high), both.method)
        return SignalShare(size, total, {cause: scaled[cause] for cause in parts}, extrapolated=True)

    def problem_shares(self, size: int) -> FloatArray:
        """Return [P] the share of the groups of each problem that carry no signal, expected under the posterior of its rate."""
        shares: FloatArray = np.sum(list(self._parts(size, observed=False).values()), axis=0).clip(0.0, 1.0)
        return shares

    def _all_same(self, size: int) -> tuple[FloatArray, FloatArray]:
        """Return [P] the chance that `size` failures of a problem have one score, and that as many successes have."""
        of = (self.outcomes.failures, self.outcomes.successes)
        number = self.outcomes.num_samples.size
        failures, successes = (np.ones(number) if ties is None else ties.all_same(size, number) for ties in of)
        return failures, successes

    def _parts(self, size: int, *, observed: bool) -> dict[NoSignal, FloatArray]:
        """Return [P] the share of each problem's groups without signal, by cause."""
        if size < 2:
            raise ValueError(f"group size: got {size}; allowed: 2 and more")
        known = self.outcomes
        no_success, easy = self._expect(self._strict, known.num_correct, size, observed=observed)
        unrescued, _ = self._expect(self._lenient, known.num_lenient, size, observed=observed)
        same_failures, same_successes = self._all_same(size)
        no_success, unrescued, easy = no_success * same_failures, unrescued * same_failures, easy * same_successes
        failed = np.maximum(known.num_samples - known.num_lenient, 0)
        pooled = [kind.sum() / max(1, failed.sum()) for kind in (known.num_truncated, known.num_unread)]
        truncated, unread = (
            np.where(failed > 0, kind / np.maximum(failed, 1), share)
            for kind, share in zip((known.num_truncated, known.num_unread), pooled, strict=True)
        )
        unrescued = np.minimum(unrescued, no_success)
        return {
            NoSignal.MISSING_GRADE: self._for_want_of_grades(size, no_success + easy, observed=observed),
            NoSignal.FORMAT: no_success - unrescued,
            NoSignal.TRUNCATED: unrescued * truncated,
            NoSignal.UNREAD: unrescued * unread,
            NoSignal.TOO_HARD: unrescued * (1.0 - truncated - unread).clip(0.0),
            NoSignal.TOO_EASY: easy,
        }

    def _for_want_of_grades(self, size: int, graded: FloatArray, *, observed: bool) -> FloatArray:
        """Return [P] the share of groups that have no signal because some of their samples have no grade.

        Args:
            size: Of a group.
            graded: [P] the share without signal if all samples are graded.
            observed: As in `_parts`.
        """
        known = self.outcomes
        lost = np.zeros(known.num_samples.size)
        rows = np.flatnonzero(known.num_missing)
        if not rows.size:
            return lost
        rate = known.num_missing[rows] / (known.num_missing[rows] + known.num_samples[rows])
        for kept in range(size):
            chance = scipy.stats.binom.pmf(kept, size, 1.0 - rate)
            if not np.any(chance > 1e-12):
                continue
            dead = np.ones(known.num_samples.size)
            if kept >= 2:
                shares = self._expect(self._strict, known.num_correct, kept, observed=observed)
                dead = np.sum([share * same for share, same in zip(shares, self._all_same(kept), strict=True)], axis=0)
            lost[rows] += chance * (dead[rows] - graded[rows]).clip(0.0)
        return lost

    def _expect(
        self, mixture: MixturePosterior, correct: IntArray, size: int, *, observed: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Return [P] the expected shares of a problem's groups without a success, and without a failure."""
        samples = self.outcomes.num_samples
        if not observed:
            rates = mixture.draws[1]
            values = np.stack([(1.0 - rates) ** size, rates**size], axis=2)
            means = mixture.expectations(values).mean(axis=0)[mixture.place]
            return means[:, 0], means[:, 1]
        none = 1.0 - pass_at_k(samples, correct, size)
        every = 1.0 - pass_at_k(samples, samples - correct, size)
        return _fill(none), _fill(every)


def _fill(values: FloatArray) -> FloatArray:
    """Return values with the mean where nothing is known of a problem."""
    return np.where(np.isnan(values), np.nanmean(values), values)


def _scaled(part: Interval, whole: Interval, expected: float) -> Interval:
    """Return an interval for a part of a quantity.

    Args:
        part: The part, as a mean over problems of what the posterior expects.
        whole: The quantity, with its interval over the population.
        expected: The quantity, as the part is estimated.
    """
    if part.estimate <= 0.0:  # no sample is of this kind
        return Interval(0.0, 0.0, min(part.high, whole.high), whole.method)
    low, high = part.low * whole.low / expected, part.high * max(whole.high / expected, 1.0)
    return Interval(part.estimate * whole.estimate / expected, max(0.0, low), min(1.0, whole.high, high), whole.method)


def signal_curve(signal: GroupSignal, sizes: Sequence[int] = GROUP_SIZES) -> list[SignalShare]:
    """Return the share of groups without signal at each size, sizes rising."""
    return [signal.share(size) for size in sorted(set(sizes))]


def _log_choose(n: npt.ArrayLike, k: int) -> FloatArray:
    """Return log C(n, k); −∞ where n < k."""
    values = np.asarray(n, dtype=np.float64)
    inside = values >= k
    kept = np.where(inside, values, k)
    logs = scipy.special.gammaln(kept + 1) - scipy.special.gammaln(k + 1.0) - scipy.special.gammaln(kept - k + 1)
    return np.where(inside, logs, -np.inf)
