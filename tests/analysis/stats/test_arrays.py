"""Distinct pairs of counts are those that numpy finds over rows."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.analysis.stats.arrays import distinct_pairs


@pytest.mark.parametrize("largest", [1, 40, 2**31])
def test_pairs_are_those_of_numpy_in_the_same_order(largest: int) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(largest, size=(2, 500))
    rows, place, repeats = np.unique(np.stack([first, second], axis=1), axis=0, return_inverse=True, return_counts=True)
    found = distinct_pairs(first, second)
    np.testing.assert_array_equal(found[0], rows)
    np.testing.assert_array_equal(found[1], place.reshape(-1))
    np.testing.assert_array_equal(found[2], repeats)


def test_no_rows_have_no_pairs() -> None:
    none = np.array([], dtype=np.int64)
    pairs, place, repeats = distinct_pairs(none, none)
    assert pairs.shape == (0, 2)
    assert place.size == repeats.size == 0
