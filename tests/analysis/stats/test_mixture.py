"""The mixing distribution of success rates against exact enumeration, planted populations and the all-zero case."""

import numpy as np
import pytest
from helpers.mixture_ml import fit_mixture_ml
from helpers.refusals import assert_refuses
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import betabinom, binom

from posttrain.analysis import stats as ps
from posttrain.analysis.stats.intervals import design_effect
from posttrain.analysis.stats.success_rate_grid import likelihood_table, rate_grid

EPSILON = 0.0064
Array = NDArray[np.float64]


def planted(rng: np.random.Generator, size: int, zero: float, one: float, a: float, b: float) -> Array:
    which = rng.random(size)
    return np.where(which < zero, 0.0, np.where(which > 1 - one, 1.0, rng.beta(a, b, size)))


def fitted(rng: np.random.Generator, rates: Array, budget: int, **more: object) -> ps.MixturePosterior:
    n = np.full(rates.size, budget)
    return ps.fit_mixture(n, rng.binomial(n, rates), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 16, 256, 5000])
def test_the_grid_has_its_points_and_a_proper_prior(most: int) -> None:
    grid = rate_grid(most, (EPSILON, 0.9))
    assert grid.prior.sum() == pytest.approx(1)
    twins = np.isin(np.arange(grid.rates.size), grid.marks - 1)
    assert (grid.prior[~twins] > 0).all()
    assert (grid.prior[twins] == 0).all()
    assert (np.diff(grid.rates) > 0).all()
    assert {0.0, EPSILON, 0.9, 1.0} <= set(grid.rates)
    inside = grid.rates[(grid.rates > 0.05) & (grid.rates < 0.95)]
    # Neighbours are close for a problem with n samples, up to n of a few hundred.
    assert np.diff(np.arcsin(np.sqrt(inside))).max() <= max(0.041, 1.2 / np.sqrt(most))


def test_likelihoods_are_binomial_up_to_a_factor() -> None:
    n, c, p = np.array([5, 8, 8]), np.array([0, 3, 8]), np.array([0.0, 0.1, 0.5, 1.0])
    table = likelihood_table(n, c, p)
    exact = binom.pmf(c[:, None], n[:, None], p[None, :])
    np.testing.assert_allclose(table, exact / exact.max(axis=1, keepdims=True), atol=1e-12)


def test_one_problem_under_a_known_distribution_is_bayes_by_hand() -> None:
    """A thousand problems inform the mixing distribution; one more is then estimated by Bayes' rule under it."""
    rng = np.random.default_rng(0)
    rates = np.where(rng.random(1000) < 0.4, 0.05, 0.6)
    n = np.r_[np.full(1000, 64), 4]
    c = np.r_[rng.binomial(64, rates), 1]
    mean = ps.fit_mixture(n, c).problem_interval()[0][-1]
    share = np.array([0.4, 0.6]) * binom.pmf(1, 4, [0.05, 0.6])
    assert mean == pytest.approx(share @ [0.05, 0.6] / share.sum(), abs=0.04)


def test_interval_probabilities_agree_with_draws() -> None:
    rng = np.random.default_rng(1)
    n = rng.choice([4, 16, 64], 60)
    edges = [EPSILON, 0.3, 0.9]
    fit = ps.fit_mixture(n, rng.binomial(n, planted(rng, 60, 0.2, 0.1, 0.8, 1.5)), marks=edges)
    states = fit.interval_probabilities(edges)
    np.testing.assert_allclose(states.sum(axis=1), 1.0)
    rates = fit.draw_rates(rng=rng, num_draws=4096)
    frequencies = np.stack([(np.digitize(rates, edges) == index).mean(axis=0) for index in range(4)], axis=1)
    np.testing.assert_allclose(frequencies, states, atol=0.04)
    counts, mean = fit.draw_interval_counts(edges, rng=rng, num_draws=4096)
    assert (counts.sum(axis=1) == 60).all()
    np.testing.assert_allclose(counts.mean(axis=0) / 60, states.mean(axis=0), atol=0.01)
    assert mean.mean() == pytest.approx(rates.mean(), abs=0.01)
    assert mean.std() == pytest.approx(rates.mean(axis=1).std(), rel=0.15)
    means, low, high = fit.problem_interval(0.9)
    np.testing.assert_allclose(rates.mean(axis=0), means, atol=0.03)
    assert (((rates >= low) & (rates <= high)).mean(axis=0) > 0.88).all()


def test_what_lies_at_a_threshold_belongs_to_neither_side() -> None:
    fit = ps.fit_mixture(np.full(60, 256), np.full(60, 230), marks=[0.9])
    strict = fit.interval_probabilities([0.9], strict=True)
    assert strict.max() < 0.6
    np.testing.assert_allclose(fit.interval_probabilities([0.9]).sum(axis=1), 1.0)
    assert strict.sum(axis=1).max() < 0.9


def test_all_zeros() -> None:
    fit = ps.fit_mixture(np.full(24, 16), np.zeros(24, dtype=int), marks=[EPSILON])
    assert fit.interval_probabilities([EPSILON])[:, 0].min() > 0.75
    extrapolated = fit.pass_at_k(128)
    assert extrapolated.low < 0.01
    # 384 samples without a success: a rate of ln(1/.146)/384 is as unlikely as the interval allows.
    assert 0.3 < extrapolated.high < 0.7
    mass = fit.impossible_mass()
    assert mass.low == pytest.approx(0, abs=0.02)
    assert mass.high > 0.95
    assert np.isnan(mass.estimate)
    _, low, high = fit.problem_interval()
    assert (low == 0).all()
    assert (high > 1e-3).all()


def test_one_problem_without_success_is_less_certain_than_many() -> None:
    alone = ps.fit_mixture([4], [0]).interval_probabilities([0.05])[0, 0]
    among = ps.fit_mixture([4] * 24, [0] * 24).interval_probabilities([0.05])[0, 0]
    assert alone < among


def test_zeros_among_solved_problems_are_estimated_from_them() -> None:
    """Three successes of sixteen elsewhere make a zero likely to be bad luck; the same zero among zeros does not."""
    among_solved = ps.fit_mixture([16] * 40, [0] + [3] * 39).interval_probabilities([EPSILON])[0, 0]
    among_zeros = ps.fit_mixture([16] * 40, [0] * 39 + [3]).interval_probabilities([EPSILON])[0, 0]
    assert among_solved < 0.6
    assert among_zeros > among_solved + 0.1


@pytest.mark.statistical
@pytest.mark.parametrize("budget", [8, 64])
def test_problem_intervals_cover(budget: int) -> None:
    covered, narrow = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        p = rng.beta(0.3, 1.2, 100)
        _, low, high = fitted(rng, p, budget).problem_interval(0.9)
        covered.append(np.mean((low <= p) & (p <= high)))
        narrow.append(np.mean(high - low))
    assert 0.86 < np.mean(covered) <= 1
    assert np.mean(narrow) < (0.35 if budget == 8 else 0.16)


@pytest.mark.statistical
def test_point_masses_are_recovered() -> None:
    rng = np.random.default_rng(3)
    p = planted(rng, 400, 0.3, 0.3, 4.0, 6.0)
    counts, _ = fitted(rng, p, 64, marks=[EPSILON, 0.9]).draw_interval_counts([EPSILON, 0.9], rng=rng)
    truth = [np.sum(p < EPSILON), np.sum((p >= EPSILON) & (p < 0.9)), np.sum(p >= 0.9)]
    np.testing.assert_allclose(counts.mean(axis=0), truth, atol=16)


@pytest.mark.statistical
def test_profile_intervals_cover_within_and_beyond_the_samples() -> None:
    ks = [1, 16, 64, 512]
    truth = [0.8 * -np.expm1(betaln(0.5, 1.0 + k) - betaln(0.5, 1.0)) for k in ks]
    covered, identified = [], []
    for seed in range(30):
        rng = np.random.default_rng(100 + seed)
        found = fitted(rng, planted(rng, 100, 0.2, 0.0, 0.5, 1.0), 16).pass_at_ks(ks)
        covered.append([interval.low <= true <= interval.high for interval, true in zip(found, truth, strict=True)])
        identified.append([not np.isnan(interval.estimate) for interval in found])
    assert (np.mean(covered, axis=0) >= 0.85).all()
    assert np.mean(identified, axis=0)[:2].tolist() == [1, 1]
    # 16 samples do not say what 512 would show, and the interval does not pretend they do.
    assert np.mean(identified, axis=0)[3] < 0.2


def test_a_sharp_distribution_is_extrapolated_far_and_a_blurred_one_is_not() -> None:
    rng = np.random.default_rng(0)
    sharp = fitted(rng, np.where(np.arange(200) < 100, 0.0, 0.7), 32).pass_at_k(128)
    assert not np.isnan(sharp.estimate)
    assert sharp.low <= 0.5 <= sharp.high
    blurred = fitted(rng, rng.beta(0.2, 2.0, 200), 8).pass_at_k(1024)
    assert np.isnan(blurred.estimate)
    assert blurred.high - blurred.low > 0.3


def test_optional_stopping_at_successes_does_not_bias() -> None:
    """Under inverse sampling the mean of c/n is far from the rate; the likelihood is not."""
    rng = np.random.default_rng(1)
    n = rng.geometric(0.25, 300)
    interval = ps.fit_mixture(n, np.ones(300, dtype=int)).pass_at_k(1)
    assert np.mean(1 / n) > 0.4
    assert interval.low <= 0.25 <= interval.high
    assert interval.high - interval.low < 0.12


def test_related_problems_widen_population_intervals() -> None:
    rng = np.random.default_rng(2)
    rates = np.repeat(rng.beta(0.5, 0.5, 10), 20)
    n, names = np.full(200, 32), [f"g{i // 20}" for i in range(200)]
    c = rng.binomial(n, rates)
    alone, grouped = ps.fit_mixture(n, c), ps.fit_mixture(n, c, groups=names)
    wide, narrow = grouped.pass_at_k(1), alone.pass_at_k(1)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert design_effect(c / n, np.asarray(names)) > 5
    single = ps.fit_mixture(n, c, groups=[str(i) for i in range(200)])
    np.testing.assert_array_equal(single.distributions, alone.distributions)
    np.testing.assert_array_equal(single.unsmoothed_distributions, alone.unsmoothed_distributions)


def test_unequal_budgets_and_problems_without_samples() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(2, 3, 300)
    n = rng.integers(0, 40, 300)
    mean, low, high = ps.fit_mixture(n, rng.binomial(n, p)).problem_interval(0.9)
    assert np.mean((low <= p) & (p <= high)) > 0.85
    # A problem without samples gets the population's mean.
    np.testing.assert_allclose(mean[n == 0], 0.4, atol=0.06)


def test_without_data_the_posterior_is_the_prior() -> None:
    fit = ps.fit_mixture([], [])
    assert fit.interval_probabilities([0.5]).shape == (0, 2)
    interval = fit.pass_at_k(3)
    assert np.isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert ps.fit_mixture([0, 0], [0, 0]).problem_interval()[0] == pytest.approx(fit.grid.prior @ fit.grid.rates, abs=0.05)


def test_problems_that_share_a_rate_near_a_threshold_need_not_lie_on_both_sides() -> None:
    fit = ps.fit_mixture(np.full(40, 64), np.full(40, 60), marks=[EPSILON, 0.9])  # 94 %, each within two standard errors of .9
    smooth, unsmoothed = (
        float((weights @ fit.interval_indicators([EPSILON, 0.9]))[:, 2].mean())
        for weights in (fit.distributions, fit.unsmoothed_distributions)
    )
    assert smooth < 0.65
    assert unsmoothed > 0.85
    counts, _ = fit.draw_interval_counts([EPSILON, 0.9], rng=np.random.default_rng(0), num_draws=1000)
    assert counts[:500, 2].mean() + 8 < counts[500:, 2].mean()


def test_order_and_seed_decide() -> None:
    n, c = np.array([8, 16, 8, 32]), np.array([0, 4, 8, 1])
    order = np.array([2, 0, 3, 1])
    fit, shuffled = ps.fit_mixture(n, c), ps.fit_mixture(n[order], c[order])
    np.testing.assert_allclose(fit.interval_probabilities([0.1])[order], shuffled.interval_probabilities([0.1]), rtol=1e-9)
    np.testing.assert_array_equal(fit.distributions, ps.fit_mixture(n, c).distributions)
    np.testing.assert_array_equal(fit.unsmoothed_distributions, ps.fit_mixture(n, c).unsmoothed_distributions)
    assert not np.array_equal(fit.distributions, ps.fit_mixture(n, c, seed=1).distributions)


def test_bad_arguments_are_refused() -> None:
    counts = {"num_samples": [4], "num_correct": [1]}
    fit = ps.fit_mixture(**counts)
    for edges in ([0.0], [0.5, 0.5], [0.9, 0.1], [1.0], [float("nan")]):
        assert_refuses(fit.interval_probabilities, {"edges": [0.1, 0.9]}, edges=edges)
        assert_refuses(ps.fit_mixture, {**counts, "marks": [0.1, 0.9]}, marks=edges)
    assert_refuses(fit.draw_rates, {"rng": np.random.default_rng(0), "num_draws": 1}, num_draws=0)
    assert_refuses(fit.pass_at_k, {"k": 1}, k=0)
    assert_refuses(fit.problem_interval, {"level": 0.9}, level=1.0)
    assert_refuses(ps.fit_mixture, counts, num_correct=[5])
    assert_refuses(ps.fit_mixture, {**counts, "groups": ["a"]}, groups=["a", "b"])


def test_maximum_likelihood_finds_the_planted_values() -> None:
    rng = np.random.default_rng(4)
    n = rng.choice([32, 64], 3000)
    fit = fit_mixture_ml(n, rng.binomial(n, planted(rng, 3000, 0.25, 0.0, 1.5, 3.0)))
    assert fit.zero_share == pytest.approx(0.25, abs=0.04)
    assert fit.alpha / (fit.alpha + fit.beta) == pytest.approx(1 / 3, abs=0.03)
    assert not fit.at_bound
    assert fit.p_value > 0.01
    assert fit.pass_at_k(64) == pytest.approx(0.75 * -np.expm1(betaln(1.5, 67) - betaln(1.5, 3)), abs=0.03)


def test_likelihood_is_that_of_scipy() -> None:
    n, c = np.array([8, 8, 6, 5]), np.array([2, 3, 1, 4])
    fit = fit_mixture_ml(n, c)
    from scipy.special import gammaln

    coefficients = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    expected = np.log1p(-fit.zero_share) + betabinom.logpmf(c, n, fit.alpha, fit.beta) - coefficients
    assert fit.log_likelihood == pytest.approx(expected.sum(), abs=1e-6)


def test_goodness_of_fit_notices_two_sharp_groups() -> None:
    rng = np.random.default_rng(5)
    n = np.full(1000, 64)
    sharp = rng.binomial(n, np.where(rng.random(1000) < 0.5, 0.25, 0.75))
    assert fit_mixture_ml(n, sharp).p_value < 1e-4


def test_maximum_likelihood_flags_that_zeros_have_no_maximum() -> None:
    assert fit_mixture_ml([16] * 24, [0] * 24).pass_at_k(128) < 0.05
    assert_refuses(fit_mixture_ml, {"num_samples": [1], "num_correct": [0]}, num_samples=[0])


def test_a_point_mass_at_a_threshold_may_lie_on_either_side() -> None:
    mark = 0.1
    n = np.full(200, 400)
    fit = ps.fit_mixture(n, np.random.default_rng(0).binomial(n, mark), marks=(mark,))
    counts, _ = fit.draw_interval_counts((mark,), rng=np.random.default_rng(1))
    # All of it below, all of it above, or anything in between: not half of it, give or take a few.
    assert np.quantile(counts[:, 0], 0.1) < 60
    assert np.quantile(counts[:, 0], 0.9) > 140
    strict = fit.interval_probabilities((mark,), strict=True).sum(axis=1)
    assert strict.mean() < 0.6
