"""Allocation of further samples."""

import numpy as np
import pytest
from helpers.fewest_successes_first import fewest_successes_first
from hypothesis import given
from hypothesis import strategies as st

from posttrain.analysis import stats as ps


@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), min_size=1, max_size=30),
    st.integers(0, 400),
)
def test_the_budget_is_spent_and_never_exceeded(problems: list[tuple[int, float]], budget: int) -> None:
    n = np.array([p[0] for p in problems])
    doubt = np.array([p[1] for p in problems])
    extra = ps.neyman_allocation(n, doubt, budget=budget, rng=np.random.default_rng(0))
    assert (extra >= 0).all()
    assert extra.sum() == (budget if doubt.max() > 0 else 0)
    assert not extra[doubt == 0].any()


def test_equal_doubt_levels_the_numbers() -> None:
    extra = ps.neyman_allocation(np.array([1, 5, 9]), np.ones(3), budget=9, rng=np.random.default_rng(0))
    assert (np.array([1, 5, 9]) + extra).tolist() == [8, 8, 9] or (np.array([1, 5, 9]) + extra).tolist() == [7, 8, 9]


def test_samples_go_in_proportion_to_doubt() -> None:
    extra = ps.neyman_allocation(np.zeros(3, dtype=int), np.array([1.0, 2.0, 0.0]), budget=300, rng=np.random.default_rng(0))
    assert extra.tolist() == [100, 200, 0]


def one_by_one(n: np.ndarray, c: np.ndarray, budget: int) -> np.ndarray:
    n = n.copy()
    start = n.copy()
    for _ in range(budget):
        order = np.lexsort((n, c))
        n[order[0]] += 1
    return n - start


@pytest.mark.parametrize("seed", range(5))
def test_fewest_successes_first_is_the_published_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 20, 12)
    c = np.minimum(n, rng.integers(0, 3, 12))
    batch = fewest_successes_first(n, c, 37)
    single = one_by_one(n, c, 37)
    assert batch.sum() == 37
    # Among equals the order is free; the numbers of attempts reached are not.
    assert sorted((n + batch).tolist()) == sorted((n + single).tolist())
