"""Outcomes of several runs on the same problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import MixturePosterior, PolicyValues, fit_mixture, pass_at_k, pass_at_k_moments
from posttrain.diagnose.comparison.paired_samples import PairedCounts, count_outcomes, group_units, is_adaptive
from posttrain.diagnose.storage.diagnosed_run import DiagnosedBehavior

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CheckpointCounts:
    """Samples and successes of C runs on the P problems that all of them sampled, and the samples whose outcome is missing."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """[P] group of each problem; an unrelated problem is a group of its own."""
    n: Ints
    """[C, P] samples with a known outcome."""
    c: Ints
    """[C, P] successes among them."""
    missing: Ints
    """[C, P] samples without an outcome."""
    adaptive: bool
    """Whether sample counts depend on outcomes in any of the runs."""

    @classmethod
    def of(cls, sides: Sequence[DiagnosedBehavior]) -> CheckpointCounts:
        """Count the samples of one behavior in several runs; problems without a known outcome in any of them are left out."""
        problems = sides[0].behavior.problems
        n, c, missing = np.moveaxis(
            np.array([count_outcomes(measured, [problem.id for problem in problems]) for measured in sides]), 1, 0
        )
        shared = np.flatnonzero((n > 0).all(axis=0))
        return cls(
            ids=tuple(problems[i].id for i in shared),
            groups=tuple(problems[i].group or problems[i].id for i in shared),
            n=n[:, shared],
            c=c[:, shared],
            missing=missing[:, shared],
            adaptive=is_adaptive(*sides),
        )

    @property
    def fewest(self) -> int:
        """Return the fewest samples of a problem in any run; 0 without problems."""
        return int(self.n.min()) if self.n.size else 0

    @cached_property
    def units(self) -> Sequence[Any] | None:
        """Return [P] the group of each problem as a number; None where all problems are unrelated."""
        return group_units(self.groups)

    def pair(self, before: int, after: int) -> PairedCounts:
        """Return the counts of two of the runs."""
        return PairedCounts(
            ids=self.ids, groups=self.groups, adaptive=self.adaptive,
            n_before=self.n[before], c_before=self.c[before], missing_before=self.missing[before],
            n_after=self.n[after], c_after=self.c[after], missing_after=self.missing[after],
        )  # fmt: skip

    def favour(self, index: int) -> CheckpointCounts:
        """Return the counts with the missing samples of one run as successes, and those of the others as failures."""
        right = np.arange(len(self.n))[:, None] == index
        return replace(self, n=self.n + self.missing, c=self.c + right * self.missing, missing=np.zeros_like(self.missing))

    def pass_at_ks(self, ks: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return [K, P, C] unbiased estimates of pass@k per problem."""
        return np.array([[pass_at_k(n, c, k) for n, c in zip(self.n, self.c, strict=True)] for k in ks]).swapaxes(1, 2)

    def success_rates(self, of: Sequence[int]) -> PolicyValues:
        """Return the success rates of some of the runs: c / n, after adaptive sampling the posterior means."""
        if not self.adaptive:
            return PolicyValues(self.c[of].T / self.n[of].T, self.units)
        fits = [fit_mixture(self.n[index], self.c[index], groups=self.units) for index in of]
        means, variances = zip(*map(_posterior_rates, fits), strict=True)
        return PolicyValues(np.stack(means, axis=1), self.units, variances)


def _posterior_rates(fit: MixturePosterior) -> tuple[npt.NDArray[np.float64], float]:
    """Return [P] posterior means of the success rates, and the variance of their mean that these do not show.

    As in `posterior_changes`: the spread of the fitted distribution, and twice the posterior variance of each rate, by which posterior means
    vary less over problems than rates do.
    """
    means, variances = pass_at_k_moments(fit, 1)
    size = fit.num_samples.size
    of_these = means @ fit.repeats / size
    return means.mean(axis=0)[fit.place], float(of_these.var() + 2.0 * variances[fit.place].sum() / size**2)
