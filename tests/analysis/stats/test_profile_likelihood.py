"""Profile-likelihood intervals over all mixing distributions against a convex solver and closed forms."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binom, chi2, t

from posttrain.analysis.stats.profile_likelihood import Frontier, likelihood_table, profile_intervals, rate_grid


def test_the_frontier_is_that_of_a_general_solver() -> None:
    rates = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 0.9, 1.0])
    n, c, repeats = np.array([8, 8, 8, 8]), np.array([0, 1, 4, 8]), np.array([10.0, 4.0, 6.0, 5.0])
    table = likelihood_table(n, c, rates)
    start = np.full(7, 1 / 7)

    def log_likelihood(weights: np.ndarray) -> float:
        return float(np.log(np.maximum(table @ weights, 1e-12)) @ repeats)

    simplex = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    best = minimize(lambda weights: -log_likelihood(weights), start, bounds=[(0, 1)] * 7, constraints=[simplex], method="SLSQP")
    allowed = 0.5 * chi2.ppf(0.95, 1)
    for k in (1, 4, 64):
        h = 1 - (1 - rates) ** k
        found = profile_intervals(table, repeats, h[None, :], degrees=1e6)[0]
        near = {"type": "ineq", "fun": lambda weights: log_likelihood(weights) + best.fun + allowed}
        ends = [
            minimize(
                lambda weights, s=sign, h=h: s * (weights @ h),
                best.x,
                bounds=[(0, 1)] * 7,
                constraints=[simplex, near],
                method="SLSQP",
            )
            for sign in (1, -1)
        ]
        assert found.low == pytest.approx(ends[0].x @ h, abs=0.01)
        assert found.high == pytest.approx(ends[1].x @ h, abs=0.01)


def test_a_proportion_gets_its_likelihood_interval() -> None:
    """Problems that always or never pass: the share of the former is a binomial proportion."""
    rates = np.array([0.0, 1.0])
    table = likelihood_table(np.array([4, 4]), np.array([0, 4]), rates)
    found = profile_intervals(table, np.array([14.0, 6.0]), np.array([[0.0, 1.0]]), degrees=19)[0]
    share = np.linspace(0.01, 0.99, 9801)
    drop = 6 * np.log(0.3 / share) + 14 * np.log(0.7 / (1 - share))
    inside = share[drop <= 0.5 * t.ppf(0.975, 19) ** 2]
    assert found.estimate == pytest.approx(0.3, abs=0.002)
    assert (found.low, found.high) == (pytest.approx(inside.min(), abs=0.005), pytest.approx(inside.max(), abs=0.005))


def test_few_problems_widen_the_interval() -> None:
    table = likelihood_table(np.array([4, 4]), np.array([0, 4]), np.array([0.0, 1.0]))
    narrow, wide = (
        profile_intervals(table, np.array([3.0, 2.0]), np.array([[0.0, 1.0]]), degrees=degrees)[0] for degrees in (1e6, 4)
    )
    assert wide.low < narrow.low
    assert wide.high > narrow.high


def test_without_samples_the_interval_is_the_whole_range() -> None:
    found = profile_intervals(np.empty((0, 3)), np.empty(0), np.ones((2, 3)), degrees=1)
    assert len(found) == 2
    assert np.isnan(found[0].estimate)
    assert (found[0].low, found[0].high) == (0.0, 1.0)


@pytest.mark.parametrize(("true", "problems"), [(0.5, 10_000), (0.3, 100_000), (0.731, 1_000_000)])
def test_many_problems_of_one_rate_pin_it_down(true: float, problems: int) -> None:
    c, rates = np.arange(65), rate_grid(64, problems)
    table, repeats = likelihood_table(np.full(65, 64), c, rates), problems * binom.pmf(c, 64, true)
    (found,) = profile_intervals(table, repeats, rates[None, :], degrees=problems - 1)
    assert true - 0.004 < found.low < true < found.high < true + 0.004
    assert found.low < found.estimate < found.high


def test_the_end_of_the_range_is_inside_where_the_samples_allow_it() -> None:
    for problems in (1, 1000, 100_000):
        rates, repeats = rate_grid(16), np.array([problems])
        passed = profile_intervals(likelihood_table(np.array([16]), np.array([16]), rates), repeats, rates[None, :], degrees=5)[0]
        failed = profile_intervals(likelihood_table(np.array([16]), np.array([0]), rates), repeats, rates[None, :], degrees=5)[0]
        assert passed.high == 1.0
        assert failed.low == 0.0


def test_ends_at_several_drops_are_nested_and_those_of_each_alone() -> None:
    rates = rate_grid(16)
    table = likelihood_table(np.full(4, 16), np.array([0, 1, 5, 14]), rates)
    functionals = np.stack([rates, (rates < 0.0064).astype(np.float64)])
    frontier = Frontier(table, np.array([20, 10, 20, 10]), functionals)
    lows, highs = frontier.ends(2.0, 0.02)
    assert (lows[0] <= lows[1]).all()
    assert (highs[0] >= highs[1]).all()
    for index, drop in enumerate((2.0, 0.02)):
        (low,), (high,) = frontier.ends(drop)
        np.testing.assert_allclose([low, high], [lows[index], highs[index]], atol=1e-4)
    assert (lows[1] <= functionals @ frontier.best).all()
