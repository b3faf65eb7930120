"""Estimators against enumeration of every subset."""

from itertools import combinations
from math import ceil, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.analysis import stats as ps


def enumerate_subsets(n: int, c: int, k: int, needed: int) -> float:
    outcomes = [index < c for index in range(n)]
    subsets = list(combinations(outcomes, k))
    return sum(sum(subset) >= needed for subset in subsets) / len(subsets)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 10))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


@settings(max_examples=60, deadline=None)
@given(counts(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.75, 1.0]))
def test_equals_the_share_of_subsets(problem: tuple[int, int, int], tau: float) -> None:
    n, c, k = problem
    assert ps.pass_at_k([n], [c], k)[0] == pytest.approx(enumerate_subsets(n, c, k, 1), abs=1e-12)
    assert ps.pass_hat_k([n], [c], k)[0] == pytest.approx(enumerate_subsets(n, c, k, k), abs=1e-12)
    needed = max(1, ceil(round(tau * k, 6)))
    assert ps.g_pass_at_k([n], [c], k, tau)[0] == pytest.approx(enumerate_subsets(n, c, k, needed), abs=1e-12)


def test_pass_at_k_is_exact_for_many_samples() -> None:
    n = 200_000
    assert ps.pass_at_k([n], [1], 1000)[0] == pytest.approx(1000 / n, rel=1e-12)
    assert ps.pass_at_k([n], [3], 1)[0] == pytest.approx(3 / n, rel=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    n, p, k = 12, 0.17, 5
    c = np.arange(n + 1)
    from scipy.stats import binom

    mean = binom.pmf(c, n, p) @ ps.pass_at_k(np.full(n + 1, n), c, k)
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_undefined_where_samples_are_fewer_than_k() -> None:
    for values in (
        ps.pass_at_k([0, 3, 4], [0, 3, 4], 4),
        ps.pass_hat_k([0, 3, 4], [0, 3, 4], 4),
        ps.g_pass_at_k([0, 3, 4], [0, 3, 4], 4, 0.5),
    ):
        assert np.isnan(values[:2]).all()
        assert values[2] == 1.0
    assert ps.pass_at_k([], [], 3).shape == (0,)


@pytest.mark.parametrize(("n", "c"), [([3], [4]), ([-1], [0]), ([2], [-1]), ([2, 3], [1]), ([2.5], [1]), ([[2]], [[1]])])
def test_bad_counts_are_refused(n: list[float], c: list[float]) -> None:
    with pytest.raises(ValueError):
        ps.pass_at_k(n, c, 1)


def test_bad_k_and_tau_are_refused() -> None:
    with pytest.raises(ValueError, match="k must"):
        ps.pass_at_k([3], [1], 0)
    with pytest.raises(ValueError, match="tau"):
        ps.g_pass_at_k([3], [1], 2, 1.5)
    with pytest.raises(ValueError, match="tau"):
        ps.cover_at_tau([3], [1], 0.0)


def test_g_pass_does_not_stumble_over_rounding() -> None:
    # .7 · 10 is a hair above 7 in floating point for some spellings; 7 of 10 right must be enough.
    assert ps.g_pass_at_k([10], [7], 10, 0.7)[0] == 1.0
    assert ps.g_pass_at_k([10], [6], 10, 0.7)[0] == 0.0


def test_cover_at_tau() -> None:
    np.testing.assert_array_equal(ps.cover_at_tau([10, 10, 0, 4], [7, 6, 0, 4], 0.7), [1.0, 0.0, np.nan, 1.0])


def test_coverage_profile() -> None:
    profile = ps.coverage_profile([1.0, 2.0, 3.0, np.nan], [0.0, 2.0, 2.5, 9.0])
    np.testing.assert_allclose(profile, [1.0, 2 / 3, 1 / 3, 0.0])
    np.testing.assert_allclose(ps.coverage_profile([1.0, 2.0, 3.0], [0.5], reference_nll=[1.0, 1.0, 2.0]), [2 / 3])
    assert np.isnan(ps.coverage_profile([np.nan], [0.0])).all()


def test_entropy_of_answers() -> None:
    np.testing.assert_allclose(ps.answer_entropy([[4, 4, 0], [8, 0, 0], [0, 0, 0]]), [log(2), 0.0, np.nan])
    np.testing.assert_allclose(ps.effective_answers([5, 5, 5, 5]), 4.0)
    with pytest.raises(ValueError):
        ps.answer_entropy([-1, 2])


def test_guessing_baseline() -> None:
    np.testing.assert_allclose(ps.guessing_baseline([1, 4, np.inf], 3), [1.0, 1 - 0.75**3, 0.0])


def test_missing_bounds() -> None:
    low, high = ps.missing_bounds([2, 0, 3], [4, 0, 3], [4, 0, 0])
    np.testing.assert_allclose(low, [0.25, np.nan, 1.0])
    np.testing.assert_allclose(high, [0.75, np.nan, 1.0])
    with pytest.raises(ValueError):
        ps.missing_bounds([1], [2], [-1])


@pytest.mark.parametrize(
    ("max_n", "primary", "expected"),
    [(16, 16, [1, 2, 4, 8, 16]), (20, 10, [1, 2, 4, 8, 10, 16]), (0, 4, [4]), (1, 1, [1]), (3, 8, [1, 2, 8])],
)
def test_k_grid(max_n: int, primary: int, expected: list[int]) -> None:
    assert ps.k_grid(max_n, primary) == expected
