"""The mixture against brute force, planted populations and the all-zero case."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import betabinom

from posttrain.analysis import stats as ps

EPSILON = 0.0064
Array = NDArray[np.float64]


def planted(rng: np.random.Generator, size: int, zero: float, one: float, a: float, b: float) -> Array:
    which = rng.random(size)
    return np.where(which < zero, 0.0, np.where(which > 1 - one, 1.0, rng.beta(a, b, size)))


def test_equals_importance_sampling_from_the_stated_prior() -> None:
    n, c = np.array([8, 8, 8, 4, 16, 8, 2, 0]), np.array([0, 8, 3, 0, 1, 0, 2, 0])
    rng = np.random.default_rng(0)
    draws = 150_000
    zero = rng.beta(1 / 3, 1, draws)
    one = (1 - zero) * rng.beta(1, 4, draws)
    mean = 1 / (1 + np.exp(-rng.uniform(np.log(1e-5), -np.log(1e-5), draws)))
    log_size = rng.normal(np.log(2), 1.5, draws)
    size = np.exp(np.clip(log_size, -3.9, 7.6))
    a, b = mean * size, (1 - mean) * size
    marginal = np.exp(betaln(a[:, None] + c, b[:, None] + n - c) - betaln(a, b)[:, None])
    evidence = (1 - zero - one)[:, None] * marginal + zero[:, None] * (c == 0) + one[:, None] * (c == n)
    weight = evidence.prod(axis=1)
    weight /= weight.sum()
    at_zero, at_one = zero[:, None] * (c == 0) / evidence, one[:, None] * (c == n) / evidence
    p_mean = weight @ (at_one + (1 - at_zero - at_one) * (a[:, None] + c) / (size[:, None] + n))
    fit = ps.fit_mixture(n, c)
    np.testing.assert_allclose(fit.problem_interval()[0], p_mean, atol=0.012)
    assert fit.impossible_mass().estimate == pytest.approx(weight @ zero, abs=0.012)
    hit = one + (1 - zero - one) * -np.expm1(betaln(a, b + 64) - betaln(a, b))
    assert fit.pass_at_k(64, rng=rng).estimate == pytest.approx(weight @ hit, abs=0.012)


def test_state_probabilities_agree_with_draws_and_intervals() -> None:
    rng = np.random.default_rng(1)
    n = rng.choice([4, 16, 64], 60)
    fit = ps.fit_mixture(n, rng.binomial(n, planted(rng, 60, 0.2, 0.1, 0.8, 1.5)))
    edges = [EPSILON, 0.3, 0.9]
    states = fit.state_probabilities(edges)
    np.testing.assert_allclose(states.sum(axis=1), 1.0)
    rates = fit.draw_rates(rng=rng, num_draws=4000)
    drawn = np.stack([(np.digitize(rates, edges) == index).mean(axis=0) for index in range(4)], axis=1)
    np.testing.assert_allclose(drawn, states, atol=0.05)
    np.testing.assert_allclose(fit.share_probabilities(edges, rng=rng).mean(axis=0), states.mean(axis=0), atol=0.006)
    mean, low, high = fit.problem_interval(0.9)
    np.testing.assert_allclose(rates.mean(axis=0), mean, atol=0.03)
    inside = ((rates >= low) & (rates <= high)).mean(axis=0)
    assert np.all(inside > 0.88)
    # Where no heap at 0 or 1 reaches into the tails, the interval holds just as much as it says.
    plain = (low > 0) & (high < 1)
    np.testing.assert_allclose(inside[plain], 0.9, atol=0.03)


def test_all_zeros() -> None:
    n, c = np.full(24, 16), np.zeros(24, dtype=int)
    fit = ps.fit_mixture(n, c)
    assert fit.state_probabilities([EPSILON])[:, 0].min() > 0.9
    assert fit.share_probabilities([EPSILON], rng=np.random.default_rng(0))[:, 0].mean() > 0.9
    extrapolated = fit.pass_at_k(128, rng=np.random.default_rng(0))
    assert extrapolated.estimate < 0.1
    assert extrapolated.high < 0.25
    # Impossible or merely hard: these data cannot tell.
    assert fit.identified == "not_identified"
    mass = fit.impossible_mass()
    assert mass.low < 0.1 < 0.9 < mass.high
    _, low, high = fit.problem_interval()
    assert np.all(low == 0)
    assert np.all(high > 1e-3)


def test_one_problem_without_success_is_less_certain_than_many() -> None:
    alone = ps.fit_mixture([4], [0]).state_probabilities([0.05])[0, 0]
    among = ps.fit_mixture([4] * 24, [0] * 24).state_probabilities([0.05])[0, 0]
    assert alone < among


def test_zeros_among_solved_problems_are_judged_by_them() -> None:
    """Three successes of sixteen elsewhere make a zero look unlucky; the same zero among zeros does not."""
    fit = ps.fit_mixture([16] * 40, [0] + [3] * 39)
    assert fit.state_probabilities([EPSILON])[0, 0] < 0.5
    assert ps.fit_mixture([16] * 40, [0] * 39 + [3]).state_probabilities([EPSILON])[0, 0] > 0.7


@pytest.mark.parametrize("planted_zero", [0.0, 0.3, 0.6])
def test_recovers_the_impossible_mass(planted_zero: float) -> None:
    estimates, covered = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = np.full(200, 64)
        interval = ps.fit_mixture(n, rng.binomial(n, planted(rng, 200, planted_zero, 0.0, 1.0, 2.0))).impossible_mass()
        estimates.append(interval.estimate)
        covered.append(interval.low - 0.01 <= planted_zero <= interval.high)
    assert np.mean(estimates) == pytest.approx(planted_zero, abs=0.04)
    assert np.mean(covered) >= 0.8


def test_a_heap_of_mastered_problems_does_not_hide_the_impossible_ones() -> None:
    errors, covered = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        p = planted(rng, 200, 0.2, 0.3, 2.0, 3.0)
        n = np.full(200, 32)
        fit = ps.fit_mixture(n, rng.binomial(n, p))
        errors.append(fit.impossible_mass().estimate - 0.2)
        _, low, high = fit.problem_interval(0.9)
        covered.append(np.mean((low <= p) & (p <= high)))
        assert fit.state_probabilities([EPSILON, 0.9])[p == 1.0, 2].mean() > 0.9
    # A Beta without the heap at one gives −.12 and .68 here.
    assert abs(np.mean(errors)) < 0.04
    assert np.mean(covered) > 0.88


@pytest.mark.parametrize("budget", [8, 64])
def test_problem_intervals_cover(budget: int) -> None:
    covered, narrow = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        p = rng.beta(0.3, 1.2, 100)
        n = np.full(100, budget)
        _, low, high = ps.fit_mixture(n, rng.binomial(n, p)).problem_interval(0.9)
        covered.append(np.mean((low <= p) & (p <= high)))
        narrow.append(np.mean(high - low))
    assert 0.86 < np.mean(covered) < 0.97
    assert np.mean(narrow) < (0.3 if budget == 8 else 0.12)


def test_share_intervals_cover() -> None:
    covered = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        p = planted(rng, 80, 0.2, 0.0, 0.8, 2.0)
        n = np.full(80, 64)
        draws = ps.fit_mixture(n, rng.binomial(n, p)).share_probabilities([0.02, 0.3], rng=rng, num_draws=400)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        true = np.array([np.mean(p < 0.02), np.mean((p >= 0.02) & (p < 0.3)), np.mean(p >= 0.3)])
        covered.append((low - 1e-9 <= true) & (true <= high + 1e-9))
    assert np.all(np.mean(covered, axis=0) >= 0.8)


def test_extrapolates_pass_at_k() -> None:
    truth = 0.8 * -np.expm1(betaln(0.5, 1.0 + 1024) - betaln(0.5, 1.0))
    errors, covered = [], []
    for seed in range(24):
        rng = np.random.default_rng(100 + seed)
        n = np.full(200, 32)
        interval = ps.fit_mixture(n, rng.binomial(n, planted(rng, 200, 0.2, 0.0, 0.5, 1.0))).pass_at_k(1024, rng=rng)
        errors.append(interval.estimate - truth)
        covered.append(interval.low <= truth <= interval.high)
    # A plain Beta is .066 too high here, always.
    assert abs(np.mean(errors)) < 0.04
    assert np.mean(covered) >= 0.85


def test_unequal_budgets_and_missing_problems() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(2, 3, 300)
    n = rng.integers(0, 40, 300)
    fit = ps.fit_mixture(n, rng.binomial(n, p))
    mean, low, high = fit.problem_interval(0.9)
    assert np.mean((low <= p) & (p <= high)) > 0.85
    # A problem without samples gets the population's mean.
    np.testing.assert_allclose(mean[n == 0], 0.4, atol=0.05)


def test_nothing_known_gives_the_prior() -> None:
    fit = ps.fit_mixture([], [])
    assert fit.impossible_mass().estimate == pytest.approx(0.25, abs=0.01)
    assert fit.state_probabilities([0.5]).shape == (0, 2)
    assert np.isnan(fit.share_probabilities([0.5], rng=np.random.default_rng(0), num_draws=3)).all()


def test_order_and_generator_decide() -> None:
    n, c = np.array([8, 16, 8, 32]), np.array([0, 4, 8, 1])
    order = np.array([2, 0, 3, 1])
    fit, shuffled = ps.fit_mixture(n, c), ps.fit_mixture(n[order], c[order])
    np.testing.assert_allclose(fit.state_probabilities([0.1])[order], shuffled.state_probabilities([0.1]), rtol=1e-9)
    one, two = (fit.share_probabilities([0.1], rng=np.random.default_rng(seed), num_draws=50) for seed in (1, 1))
    other = fit.share_probabilities([0.1], rng=np.random.default_rng(2), num_draws=50)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("size", [5000])
def test_is_fast(size: int) -> None:
    rng = np.random.default_rng(0)
    n = np.full(size, 64)
    c = rng.binomial(n, rng.beta(0.3, 1.2, size))
    start = time.process_time()
    ps.fit_mixture(n, c).state_probabilities([EPSILON, 0.9])
    assert time.process_time() - start < 1.5


def test_bad_arguments_are_refused() -> None:
    fit = ps.fit_mixture([4], [1])
    rng = np.random.default_rng(0)
    for edges in ([0.0], [0.5, 0.5], [0.9, 0.1], [1.0], [float("nan")]):
        with pytest.raises(ValueError, match="edges"):
            fit.state_probabilities(edges)
    with pytest.raises(ValueError, match="num_draws"):
        fit.pass_at_k(4, rng=rng, num_draws=0)
    with pytest.raises(ValueError, match="k must"):
        fit.pass_at_k(0, rng=rng)
    with pytest.raises(ValueError, match="level"):
        fit.problem_interval(1.0)
    with pytest.raises(ValueError, match="successes"):
        ps.fit_mixture([4], [5])


def test_maximum_likelihood_finds_the_planted_values() -> None:
    rng = np.random.default_rng(4)
    n = rng.choice([32, 64], 3000)
    fit = ps.fit_mixture_ml(n, rng.binomial(n, planted(rng, 3000, 0.25, 0.0, 1.5, 3.0)))
    assert fit.zero_share == pytest.approx(0.25, abs=0.04)
    assert fit.alpha / (fit.alpha + fit.beta) == pytest.approx(1 / 3, abs=0.03)
    assert not fit.at_bound
    assert fit.p_value > 0.01
    assert fit.pass_at_k(64) == pytest.approx(0.75 * -np.expm1(betaln(1.5, 67) - betaln(1.5, 3)), abs=0.03)


def test_likelihood_is_that_of_scipy() -> None:
    n, c = np.array([8, 8, 6, 5]), np.array([2, 3, 1, 4])
    fit = ps.fit_mixture_ml(n, c)
    from scipy.special import gammaln

    coefficients = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    expected = np.log1p(-fit.zero_share) + betabinom.logpmf(c, n, fit.alpha, fit.beta) - coefficients
    assert fit.log_likelihood == pytest.approx(expected.sum(), abs=1e-6)


def test_goodness_of_fit_notices_two_sharp_groups() -> None:
    rng = np.random.default_rng(5)
    n = np.full(1000, 64)
    sharp = rng.binomial(n, np.where(rng.random(1000) < 0.5, 0.25, 0.75))
    assert ps.fit_mixture_ml(n, sharp).p_value < 1e-4


def test_maximum_likelihood_admits_that_zeros_have_no_maximum() -> None:
    assert ps.fit_mixture_ml([16] * 24, [0] * 24).pass_at_k(128) < 0.05
    with pytest.raises(ValueError, match="no samples"):
        ps.fit_mixture_ml([0], [0])
