"""Estimators against enumeration of every subset."""

from itertools import combinations
from math import log

import numpy as np
import pytest
from helpers.refusals import assert_refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.analysis import stats as ps


def share_of_subsets(n: int, c: int, k: int) -> float:
    """Share of the subsets of k samples with a success."""
    subsets = list(combinations([index < c for index in range(n)], k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 10))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


@settings(max_examples=60, deadline=None)
@given(counts())
def test_equals_the_share_of_subsets(problem: tuple[int, int, int]) -> None:
    n, c, k = problem
    assert ps.pass_at_k([n], [c], k)[0] == pytest.approx(share_of_subsets(n, c, k), abs=1e-12)


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
    values = ps.pass_at_k([0, 3, 4], [0, 3, 4], 4)
    assert np.isnan(values[:2]).all()
    assert values[2] == 1.0
    assert ps.pass_at_k([], [], 3).shape == (0,)


@pytest.mark.parametrize(("n", "c"), [([3], [4]), ([-1], [0]), ([2], [-1]), ([2, 3], [1]), ([2.5], [1]), ([[2]], [[1]])])
def test_bad_counts_are_refused(n: list[float], c: list[float]) -> None:
    with pytest.raises(ValueError):
        ps.pass_at_k(n, c, 1)


def test_bad_k_and_tau_are_refused() -> None:
    counts = {"num_samples": [3], "num_correct": [1]}
    for k in (0, 2.5, float("nan"), float("inf")):
        assert_refuses(ps.pass_at_k, {**counts, "k": 1}, k=k)
    assert_refuses(ps.k_grid, {"max_n": 4, "primary_k": 2}, primary_k=2.5)
    assert_refuses(ps.cover_at_tau, {**counts, "tau": 0.1}, tau=0.0)


def test_cover_at_tau() -> None:
    np.testing.assert_array_equal(ps.cover_at_tau([10, 10, 0, 4], [7, 6, 0, 4], 0.7), [1.0, 0.0, np.nan, 1.0])


def test_entropy_of_answers() -> None:
    np.testing.assert_allclose(ps.answer_entropy([[4, 4, 0], [8, 0, 0], [0, 0, 0]]), [log(2), 0.0, np.nan])
    np.testing.assert_allclose(np.exp(ps.answer_entropy([5, 5, 5, 5])), 4.0)
    with pytest.raises(ValueError):
        ps.answer_entropy([-1, 2])


@pytest.mark.parametrize(
    ("max_n", "primary", "expected"),
    [(16, 16, [1, 2, 4, 8, 16]), (20, 10, [1, 2, 4, 8, 10, 16]), (0, 4, [4]), (1, 1, [1]), (3, 8, [1, 2, 8])],
)
def test_k_grid(max_n: int, primary: int, expected: list[int]) -> None:
    assert ps.k_grid(max_n, primary) == expected
