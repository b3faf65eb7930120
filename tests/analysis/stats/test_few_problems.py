"""Intervals of pass@k over very few problems with different numbers of samples."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.analysis.stats import fit_mixture

UNEVEN = [2, 4, 6]
ALL_FAIL = 1.0 - 0.025 ** (1 / 3)
"""The exact upper bound of a share of which none of three was seen."""


def test_no_success_is_estimated_as_zero_and_bounded_exactly() -> None:
    one, two, three = fit_mixture(UNEVEN, [0, 0, 0], most_chains=1).pass_at_ks([1, 2, 3])
    for found in (one, two):
        assert (found.estimate, found.low) == (0.0, 0.0)
        assert found.high == pytest.approx(ALL_FAIL)
    assert three.high > ALL_FAIL  # one of the problems has two samples: three may hold a success


def test_no_failure_is_estimated_as_one_and_bounded_exactly() -> None:
    for found in fit_mixture(UNEVEN, UNEVEN, most_chains=1).pass_at_ks([1, 16]):
        assert (found.estimate, found.high) == (1.0, 1.0)
        assert found.low == pytest.approx(1.0 - ALL_FAIL)


def test_a_higher_level_is_wider() -> None:
    fitted = fit_mixture(UNEVEN, [0, 0, 0], most_chains=1)
    assert fitted.pass_at_ks([1], level=0.99)[0].high == pytest.approx(1.0 - 0.005 ** (1 / 3))


def test_more_problems_and_related_ones_keep_the_profile_interval() -> None:
    (many,) = fit_mixture([2, 4, 6] * 4, [0] * 12, most_chains=1).pass_at_ks([1])
    assert many.method == "profile likelihood"
    (related,) = fit_mixture([2, 4, 6, 8], [0] * 4, groups=["a", "a", "b", "b"], most_chains=1).pass_at_ks([1])
    assert "exact" not in related.method
    assert related.high > 1.0 - 0.025 ** (1 / 4)


@pytest.mark.statistical
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_bounds_cover_problems_that_are_solved_always_or_never(rate: float) -> None:
    rng, covered = np.random.default_rng(3), []
    for _ in range(300):
        solved = rng.random(4) < rate
        (found,) = fit_mixture([2, 4, 6, 6], np.array([2, 4, 6, 6]) * solved, most_chains=1).pass_at_ks([1])
        covered.append(found.low - 1e-9 <= rate <= found.high + 1e-9)
    assert np.mean(covered) >= 0.95
