"""Change of mean pass@k between two runs under adaptive sampling or unequal sample counts.

Where every problem was sampled equally often, `paired_delta_interval` needs no model. Under adaptive sampling the plain success rate c/n
is biased (optional stopping), so the change is computed from the two posteriors instead, which hold the likelihood of all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from posttrain.analysis.stats.arrays import FloatArray, check_k, check_level
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.mixture import MixturePosterior


@dataclass(frozen=True, slots=True)
class PosteriorDeltas:
    """Posterior of the mean change of pass@k over the population of problems, at K numbers of attempts; NaN without problems."""

    estimate: FloatArray
    """[K]"""
    error: FloatArray
    """[K] standard deviation."""
    degrees: float
    """Problems, or groups of related ones, minus one."""

    def intervals(self, level: float = 0.95) -> list[Interval]:
        """Return the interval at every k, each alone at this level."""
        check_level(level)
        half = float(scipy.special.stdtrit(max(self.degrees, 0.5), 0.5 + level / 2)) * self.error
        return [
            Interval(
                float(value),
                float(max(-1.0, value - reach)),
                float(min(1.0, value + reach)),
                "two posteriors, problems reweighted",
            )
            for value, reach in zip(self.estimate, half, strict=True)
        ]


def posterior_changes(
    before: MixturePosterior, after: MixturePosterior, ks: Sequence[int], *, groups: Sequence[Any] | None = None
) -> PosteriorDeltas:
    """Compute the mean change of pass@k, paired by problem, from the posteriors of two runs.

    Its variance is that of the posterior for these problems, and that of the problems themselves: what reweighting problems (or groups) by
    a Bayesian bootstrap would add, in closed form.

    Args:
        before: Fit of the run before.
        after: Fit of the run after, the same problems in the same order.
        ks: Attempts.
        groups: [P] name of the group of each problem, or None.

    Raises:
        ValueError: Lengths that differ, or k out of range.

    Source: paired differences over questions, arXiv 2411.00640; likelihood under adaptive sampling, arXiv 2510.05197.
    """
    for k in ks:
        check_k(k)
    num_problems = before.num_samples.size
    if after.num_samples.size != num_problems:
        raise ValueError(f"{num_problems} problems before and {after.num_samples.size} after; they are paired by problem")
    owner = np.arange(num_problems) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    units = int(owner.max(initial=-1)) + 1
    estimate, error = np.full((2, len(ks)), np.nan)
    for index, k in enumerate(ks if num_problems else ()):
        means, variances = zip(*(pass_at_k_moments(side, k) for side in (before, after)), strict=True)
        change = means[1].mean(axis=0)[after.place] - means[0].mean(axis=0)[before.place]
        doubt = variances[1][after.place] + variances[0][before.place]
        of_these = [mean @ side.repeats / num_problems for mean, side in zip(means, (before, after), strict=True)]
        estimate[index] = of_these[1].mean() - of_these[0].mean()
        between = (np.bincount(owner, weights=change - change.mean()) ** 2).sum() * units / max(1, units - 1)
        error[index] = np.sqrt(of_these[0].var() + of_these[1].var() + (between + 2.0 * doubt.sum()) / num_problems**2)
    return PosteriorDeltas(estimate, error, float(units - 1))


def pass_at_k_moments(mixture: MixturePosterior, k: int) -> tuple[FloatArray, FloatArray]:
    """Return, for each of U distinct counts, the mean of pass@k under each draw of the distribution [D, U], and its posterior variance [U]."""
    value = 1.0 - (1.0 - mixture.draws[1]) ** k
    first, second = np.moveaxis(mixture.expectations(np.stack([value, value**2], axis=2)), 2, 0)
    return first, np.maximum(0.0, second.mean(axis=0) - first.mean(axis=0) ** 2)
