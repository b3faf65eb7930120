"""Designs: closed forms, and the power they promise."""

import math

import numpy as np
import pytest

from posttrain.analysis import stats as ps


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0064, 469), (0.1, 30), (1.0, 3)])
def test_samples_to_resolve(epsilon: float, expected: int) -> None:
    n = ps.samples_to_resolve(epsilon)
    assert n == expected
    assert math.exp(-n * epsilon) <= 0.05 < math.exp(-(n - 1) * epsilon)


def test_detectable_delta_has_its_power() -> None:
    rng = np.random.default_rng(1)
    problems, n, p = 80, 16, 0.3
    delta = ps.detectable_delta(problems, n, p * (1 - p))
    before, after = rng.binomial(n, p, (3000, problems)) / n, rng.binomial(n, p + delta, (3000, problems)) / n
    change = after - before
    found = np.abs(change.mean(axis=1)) > 1.96 * change.std(axis=1, ddof=1) / np.sqrt(problems)
    assert found.mean() == pytest.approx(0.8, abs=0.04)


def test_detectable_rise_has_its_power() -> None:
    rng = np.random.default_rng(2)
    rate = ps.detectable_rise(64)
    found = [ps.problem_change_tests([64], [0], [64], [c]).p_expansion[0] <= 0.05 for c in rng.binomial(64, rate, 1500)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    assert ps.detectable_rise(256) < rate < ps.detectable_rise(16)
    # One sample each can never be significant.
    assert math.isnan(ps.detectable_rise(1))


def test_bad_arguments_are_refused() -> None:
    for call in (
        lambda: ps.samples_to_resolve(0.0),
        lambda: ps.samples_to_resolve(1.1),
        lambda: ps.detectable_rise(0),
        lambda: ps.detectable_rise(4, alpha=1.0),
        lambda: ps.detectable_delta(0, 4, 0.1),
        lambda: ps.detectable_delta(4, 4, -0.1),
    ):
        with pytest.raises(ValueError):
            call()
