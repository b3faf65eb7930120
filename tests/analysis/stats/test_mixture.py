"""The posterior of success rates against closed forms, exact enumeration, planted populations and the all-zero case."""

import numpy as np
import pytest
from helpers.refusals import assert_refuses
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import beta, binom

from posttrain.analysis import stats as ps
from posttrain.analysis.stats.intervals import design_effect
from posttrain.analysis.stats.mixture import BASE
from posttrain.analysis.stats.profile_likelihood import likelihood_table, rate_grid

EPSILON = 0.0064
Array = NDArray[np.float64]


def planted(rng: np.random.Generator, size: int, zero: float, one: float, a: float, b: float) -> Array:
    which = rng.random(size)
    return np.where(which < zero, 0.0, np.where(which > 1 - one, 1.0, rng.beta(a, b, size)))


def fitted(rng: np.random.Generator, rates: Array, budget: int, **more: object) -> ps.MixturePosterior:
    n = np.full(rates.size, budget)
    return ps.fit_mixture(n, rng.binomial(n, rates), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [1, 16, 256, 5000])
def test_the_grid_is_finer_than_what_samples_resolve(most: int) -> None:
    rates = rate_grid(most)
    assert (np.diff(rates) > 0).all()
    assert {0.0, 1.0} <= set(rates)
    inside = rates[(rates > 0.05) & (rates < 0.95)]
    assert np.diff(np.arcsin(np.sqrt(inside))).max() <= max(0.041, 1.2 / np.sqrt(most))


def test_likelihoods_are_binomial_up_to_a_factor() -> None:
    n, c, p = np.array([5, 8, 8]), np.array([0, 3, 8]), np.array([0.0, 0.1, 0.5, 1.0])
    table = likelihood_table(n, c, p)
    exact = binom.pmf(c[:, None], n[:, None], p[None, :])
    np.testing.assert_allclose(table, exact / exact.max(axis=1, keepdims=True), atol=1e-12)


def test_one_problem_under_a_known_distribution_is_bayes_by_hand() -> None:
    """A thousand problems inform the distribution; one more is then estimated by Bayes' rule under it."""
    rng = np.random.default_rng(0)
    rates = np.where(rng.random(1000) < 0.4, 0.05, 0.6)
    n = np.r_[np.full(1000, 64), 4]
    c = np.r_[rng.binomial(64, rates), 1]
    share = np.array([0.4, 0.6]) * binom.pmf(1, 4, [0.05, 0.6])
    assert ps.fit_mixture(n, c).problem_means()[-1] == pytest.approx(share @ [0.05, 0.6] / share.sum(), abs=0.04)


def test_a_single_problem_has_the_posterior_of_the_base() -> None:
    """Alone, a problem has a Beta posterior that is known in closed form, whatever the clusters."""
    for n, c in ((16, 0), (16, 3), (4, 4)):
        fit = ps.fit_mixture([n], [c])
        exact = beta(BASE[0] + c, BASE[1] + n - c)
        np.testing.assert_allclose(
            fit.interval_probabilities([0.05, 0.3])[0], np.diff([0, *exact.cdf([0.05, 0.3]), 1]), atol=0.05
        )
        assert fit.problem_means()[0] == pytest.approx(exact.mean(), abs=0.02)


def test_two_problems_share_a_rate_as_often_as_the_process_says() -> None:
    """Exact enumeration over both partitions of two problems: one cluster, or two."""
    n, c = np.array([8, 8]), np.array([1, 2])
    one = betaln(BASE[0] + 3, BASE[1] + 13) - betaln(*BASE)
    two = sum(betaln(BASE[0] + x, BASE[1] + 8 - x) - betaln(*BASE) for x in c)
    together = 1 / (1 + np.exp(two - one))  # a concentration of 1 makes both partitions equally likely a priori
    exact = together * beta(BASE[0] + 3, BASE[1] + 13).cdf(0.1) + (1 - together) * beta(BASE[0] + 1, BASE[1] + 7).cdf(0.1)
    found = np.mean([ps.fit_mixture(n, c, seed=seed).interval_probabilities([0.1])[0, 0] for seed in range(8)])
    assert found == pytest.approx(exact, abs=0.03)


def test_interval_probabilities_agree_with_draws() -> None:
    rng = np.random.default_rng(1)
    n = rng.choice([4, 16, 64], 60)
    edges = [EPSILON, 0.3, 0.9]
    fit = ps.fit_mixture(n, rng.binomial(n, planted(rng, 60, 0.2, 0.1, 0.8, 1.5)))
    states = fit.interval_probabilities(edges)
    np.testing.assert_allclose(states.sum(axis=1), 1.0)
    rates = fit.draw_rates(rng=rng, num_draws=4096)
    frequencies = np.stack([(np.digitize(rates, edges) == index).mean(axis=0) for index in range(4)], axis=1)
    np.testing.assert_allclose(frequencies, states, atol=0.04)
    counts, mean = fit.draw_interval_counts(edges, rng=rng)
    assert (counts.sum(axis=1) == 60).all()
    np.testing.assert_allclose(counts.mean(axis=0) / 60, states.mean(axis=0), atol=0.01)
    assert mean.mean() == pytest.approx(rates.mean(), abs=0.01)
    assert mean.std() == pytest.approx(rates.mean(axis=1).std(), rel=0.15)
    np.testing.assert_allclose(rates.mean(axis=0), fit.problem_means(), atol=0.03)


def test_all_zeros() -> None:
    fit = ps.fit_mixture(np.full(24, 16), np.zeros(24, dtype=int))
    assert fit.interval_probabilities([EPSILON])[:, 0].min() > 0.75
    (extrapolated,) = fit.pass_at_ks([128])
    assert extrapolated.low < 0.01
    # 384 samples without a success: a rate of ln(1/.146)/384 is as unlikely as the interval allows.
    assert 0.3 < extrapolated.high < 0.7
    mass = fit.share_between(0.0, 1e-6)
    assert mass.low == pytest.approx(0, abs=0.02)
    assert mass.high > 0.95
    assert np.isnan(mass.estimate)


def test_what_samples_cannot_tell_is_not_told() -> None:
    """Two hundred problems at .02, sixteen samples: nothing shows that none of them lies below .0064."""
    c = np.random.default_rng(0).binomial(16, 0.02, 200)
    below = ps.fit_mixture(np.full(200, 16), c).share_between(0.0, EPSILON)
    assert np.isnan(below.estimate)
    assert below.low == pytest.approx(0, abs=0.01)
    assert 0.2 < below.high < 0.6
    within = ps.fit_mixture(np.full(200, 16), c).share_between(EPSILON, 1.0)
    assert (within.low, within.high) == pytest.approx((1 - below.high, 1 - below.low), abs=0.01)


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
@pytest.mark.parametrize("problems", [8, 100])
def test_problem_intervals_cover(problems: int) -> None:
    covered = []
    for seed in range(160 // problems * 5):
        rng = np.random.default_rng(seed)
        p, n = rng.beta(0.3, 1.2, problems), np.full(problems, 64)
        low, high = ps.jeffreys_intervals(n, rng.binomial(n, p))
        covered.append(np.mean((low <= p) & (p <= high)))
    assert np.mean(covered) > 0.93


@pytest.mark.statistical
def test_point_masses_are_recovered() -> None:
    rng = np.random.default_rng(3)
    p = planted(rng, 400, 0.3, 0.3, 4.0, 6.0)
    counts, _ = fitted(rng, p, 64).draw_interval_counts([EPSILON, 0.9], rng=rng)
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
    sharp = fitted(rng, np.where(np.arange(200) < 100, 0.0, 0.7), 32).pass_at_ks([128])[0]
    assert not np.isnan(sharp.estimate)
    assert sharp.low <= 0.5 <= sharp.high
    blurred = fitted(rng, rng.beta(0.2, 2.0, 200), 8).pass_at_ks([1024])[0]
    assert np.isnan(blurred.estimate)
    assert blurred.high - blurred.low > 0.3


def test_optional_stopping_at_successes_does_not_bias() -> None:
    """Under inverse sampling the mean of c/n is far from the rate; the likelihood is not."""
    rng = np.random.default_rng(1)
    n = rng.geometric(0.25, 300)
    interval = ps.fit_mixture(n, np.ones(300, dtype=int)).pass_at_ks([1])[0]
    assert np.mean(1 / n) > 0.4
    assert interval.low <= 0.25 <= interval.high
    assert interval.high - interval.low < 0.12


def test_related_problems_widen_population_intervals() -> None:
    rng = np.random.default_rng(2)
    rates = np.repeat(rng.beta(0.5, 0.5, 10), 20)
    n, names = np.full(200, 32), [f"g{i // 20}" for i in range(200)]
    c = rng.binomial(n, rates)
    alone, grouped = ps.fit_mixture(n, c), ps.fit_mixture(n, c, groups=names)
    wide, narrow = grouped.pass_at_ks([1])[0], alone.pass_at_ks([1])[0]
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert design_effect(c / n, np.asarray(names)) > 5
    single = ps.fit_mixture(n, c, groups=[str(i) for i in range(200)])
    assert single.pass_at_ks([1]) == alone.pass_at_ks([1])


@pytest.mark.statistical
@pytest.mark.parametrize("groups", [5, 15])
def test_few_groups_are_covered(groups: int) -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        member = np.repeat(np.arange(groups), 8)
        means = rng.beta(1, 1, groups)
        n = rng.integers(4, 17, member.size)
        c = rng.binomial(n, rng.beta(8 * means[member] + 0.01, 8 * (1 - means[member]) + 0.01))
        (interval,) = ps.fit_mixture(n, c, groups=[str(one) for one in member]).pass_at_ks([1])
        covered += interval.low <= 0.5 <= interval.high
    assert covered >= 54


def test_problems_without_samples_get_the_mean_of_the_population() -> None:
    rng = np.random.default_rng(2)
    n = rng.integers(0, 40, 300)
    mean = ps.fit_mixture(n, rng.binomial(n, rng.beta(2, 3, 300))).problem_means()
    np.testing.assert_allclose(mean[n == 0], 0.4, atol=0.06)


def test_without_data_the_posterior_is_the_prior() -> None:
    fit = ps.fit_mixture([], [])
    assert fit.interval_probabilities([0.5]).shape == (0, 2)
    (interval,) = fit.pass_at_ks([3])
    assert np.isnan(interval.estimate)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert ps.fit_mixture([0, 0], [0, 0]).problem_means() == pytest.approx(BASE[0] / sum(BASE), abs=0.05)


def test_order_and_seed_decide() -> None:
    n, c = np.array([8, 16, 8, 32]), np.array([0, 4, 8, 1])
    order = np.array([2, 0, 3, 1])
    fit, shuffled = ps.fit_mixture(n, c), ps.fit_mixture(n[order], c[order])
    np.testing.assert_allclose(fit.interval_probabilities([0.1])[order], shuffled.interval_probabilities([0.1]), rtol=1e-9)
    np.testing.assert_array_equal(fit.draws[1], ps.fit_mixture(n, c).draws[1])
    assert not np.array_equal(fit.draws[1], ps.fit_mixture(n, c, seed=1).draws[1])


def test_bad_arguments_are_refused() -> None:
    counts = {"num_samples": [4], "num_correct": [1]}
    fit = ps.fit_mixture(**counts)
    for edges in ([0.0], [0.5, 0.5], [0.9, 0.1], [1.0], [float("nan")]):
        assert_refuses(fit.interval_probabilities, {"edges": [0.1, 0.9]}, edges=edges)
    assert_refuses(fit.draw_rates, {"rng": np.random.default_rng(0), "num_draws": 1}, num_draws=0)
    assert_refuses(fit.pass_at_ks, {"ks": [1]}, ks=[0])
    assert_refuses(fit.share_between, {"low": 0.1, "high": 0.9}, high=0.1)
    assert_refuses(fit.share_between, {"low": 0.1, "high": 0.9}, level=1.0)
    assert_refuses(ps.jeffreys_intervals, {"num_samples": np.array([4]), "num_correct": np.array([1])}, level=1.0)
    assert_refuses(ps.fit_mixture, counts, num_correct=[5])
    assert_refuses(ps.fit_mixture, {**counts, "groups": ["a"]}, groups=["a", "b"])
