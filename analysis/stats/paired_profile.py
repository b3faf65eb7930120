"""Where a change lies: intervals for the population from the joint distribution of the rates before and after.

    (p_i, q_i) ~ H,     c_i ~ Binomial(n_i, p_i),     d_i ~ Binomial(m_i, q_i),     H any distribution on a grid of pairs of rates

The interval of a functional of H holds every value of it that some H attains whose log-likelihood is within ½ t² of the maximum (the profile
likelihood of `profile_likelihood`, in two dimensions). It rests on no prior: where n samples cannot tell a rate of zero from one above ε,
both stay inside. It relies on the likelihood, so sample counts may differ and may come from adaptive sampling.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats.arrays import FloatArray, as_pairs, check_level
from posttrain.analysis.stats.intervals import Interval
from posttrain.analysis.stats.profile_likelihood import MIN_LOG_LIKELIHOOD, Frontier, likelihood_table, profile_drop

MOST_PROBLEMS = 1000
"""More are not needed for the kind of a change: a random part of this size is used."""
_FINEST_STEP = 0.06
"""Of the grid in arcsin √p: one standard error of 64 samples."""


def paired_population_intervals(
    n_before: npt.ArrayLike,
    c_before: npt.ArrayLike,
    n_after: npt.ArrayLike,
    c_after: npt.ArrayLike,
    functionals: Callable[[FloatArray, FloatArray], FloatArray],
    *,
    mark: float,
    num_bounded: int | None = None,
    level: float = 0.95,
) -> list[Interval]:
    """Compute the interval of each functional of the joint distribution of rates before and after.

    Args:
        n_before: [P] samples before; problems without samples on either side are left out.
        c_before: [P] successes before.
        n_after: [P] samples after.
        c_after: [P] successes after.
        functionals: Takes rates before and after, [K] each, and returns F values in [−1, 1] of each pair, [F, K].
        mark: A rate in (0, 1) at which the functionals may jump; the grid holds a point at it and one just below.
        num_bounded: How many of the functionals, from the first on, get an interval; the bounds of the others are NaN. All where None.
        level: Confidence.

    Returns:
        F intervals around the value at the maximum of the likelihood; NaN without data.

    Raises:
        ValueError: Bad counts, lengths that differ, or a level outside (0, 1).
    """
    check_level(level)
    rows = np.stack(as_pairs(n_before, c_before, n_after, c_after), axis=1)
    rows = rows[(rows[:, 0] > 0) & (rows[:, 2] > 0)]
    if len(rows) > MOST_PROBLEMS:
        rows = np.random.default_rng(0).choice(rows, MOST_PROBLEMS, replace=False)
    grids = [_coarse_rates(int(rows[:, side].max(initial=1)), mark) for side in (0, 2)]
    before, after = (axis.reshape(-1) for axis in np.meshgrid(*grids, indexing="ij"))
    values = functionals(before, after)
    method = "profile likelihood of both rates"
    if not len(rows):
        return [Interval(np.nan, np.nan, np.nan, method) for _ in values]
    distinct, repeats = np.unique(rows, axis=0, return_counts=True)
    sides = [likelihood_table(distinct[:, side], distinct[:, side + 1], grid) for side, grid in zip((0, 2), grids, strict=True)]
    # Numbers near the end of the float range would only slow the arithmetic down.
    joint = np.maximum((sides[0][:, :, None] * sides[1][:, None, :]).reshape(len(distinct), -1), np.exp(MIN_LOG_LIKELIHOOD))
    bounded = (1.0 + values[:num_bounded]) / 2.0
    frontier = Frontier(joint, repeats, bounded)
    unbounded = np.full(len(values) - len(bounded), np.nan)
    low, high = (np.append(2.0 * end[0] - 1.0, unbounded) for end in frontier.ends(profile_drop(level, len(rows) - 1)))
    rows = np.stack([values @ frontier.best, low, high], axis=1).tolist()
    return [Interval(estimate, start, end, method) for estimate, start, end in rows]


def _coarse_rates(most_samples: int, mark: float) -> FloatArray:
    """Return rates [K] from 0 to 1, about one standard error of n samples apart, with two at the mark."""
    step = max(_FINEST_STEP, 0.5 / np.sqrt(most_samples))
    start = np.arcsin(np.sqrt(mark))
    inner = np.sin(np.linspace(start, np.pi / 2, 2 + int((np.pi / 2 - start) / step))) ** 2
    return np.concatenate([[0.0, mark / 4, np.nextafter(mark, 0.0), mark], inner[1:-1], [1.0]])
