"""Before and after: tests of single problems, support dynamics and their null."""

import numpy as np
import pytest
from scipy.stats import fisher_exact
from statsmodels.stats.multitest import multipletests

from posttrain.analysis import stats as ps


def test_agrees_with_fisher_and_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    n0, n1 = rng.integers(1, 30, 40), rng.integers(1, 30, 40)
    c0, c1 = rng.binomial(n0, 0.3), rng.binomial(n1, 0.5)
    tests = ps.problem_change_tests(n0, c0, n1, c1)
    for index in range(40):
        table = [[c1[index], n1[index] - c1[index]], [c0[index], n0[index] - c0[index]]]
        assert tests.p_expansion[index] == pytest.approx(fisher_exact(table, alternative="greater").pvalue, rel=1e-9)
        assert tests.p_attrition[index] == pytest.approx(fisher_exact(table, alternative="less").pvalue, rel=1e-9)
    expected = multipletests(np.concatenate([tests.p_expansion, tests.p_attrition]), method="fdr_bh")[1]
    np.testing.assert_allclose(np.concatenate([tests.q_expansion, tests.q_attrition]), expected)


def test_problems_without_samples_do_not_join_the_family() -> None:
    alone = ps.problem_change_tests([16], [0], [16], [8])
    padded = ps.problem_change_tests([16, 0, 16], [0, 0, 0], [16, 5, 0], [8, 5, 0])
    assert padded.q_expansion[0] == alone.q_expansion[0] < 0.01
    np.testing.assert_array_equal(padded.q_expansion[1:], 1.0)
    assert ps.problem_change_tests([], [], [], []).q_attrition.shape == (0,)


def test_false_discoveries_stay_rare_and_real_ones_are_found() -> None:
    rng = np.random.default_rng(1)
    false = []
    for _ in range(100):
        p = rng.beta(0.3, 1.2, 100)
        n = np.full(100, 64)
        tests = ps.problem_change_tests(n, rng.binomial(n, p), n, rng.binomial(n, p))
        false.append(min(tests.q_expansion.min(), tests.q_attrition.min()) < 0.05)
    assert np.mean(false) <= 0.1
    n = np.full(40, 256)
    tests = ps.problem_change_tests(n, np.zeros(40, dtype=int), n, rng.binomial(n, 0.1))
    assert np.all(tests.q_expansion < 0.05)
    assert np.all(tests.q_attrition > 0.5)


def test_support_dynamics_by_hand() -> None:
    dynamics = ps.support_dynamics([4] * 6 + [0], [1, 2, 4, 0, 1, 0, 0], [4] * 7, [1, 1, 0, 3, 4, 0, 4])
    assert (dynamics.preserved, dynamics.expanded, dynamics.attrited, dynamics.out_of_support) == (3, 1, 1, 1)
    assert dynamics.srr == pytest.approx(3 / 4)
    assert dynamics.ndr == pytest.approx(1 / 4)
    assert dynamics.sds == pytest.approx(2 * 0.75 * 0.25)
    assert dynamics.nscr == 0.0


def test_support_dynamics_undefined() -> None:
    dynamics = ps.support_dynamics([4, 4], [0, 0], [4, 4], [0, 0])
    assert np.isnan([dynamics.srr, dynamics.ndr, dynamics.sds, dynamics.nscr]).all()
    assert dynamics.out_of_support == 2


def test_null_matches_a_second_draw() -> None:
    """The published size of effects, from a model compared with itself (p ~ Beta(.3, 1.2), 200 problems, 64 samples)."""
    expected_ratios, null, inside = [], [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        p = rng.beta(0.3, 1.2, 200)
        n = np.full(200, 64)
        before = rng.binomial(n, p)
        second = ps.support_dynamics(n, before, n, rng.binomial(n, p))
        expected = ps.support_dynamics_null(ps.fit_mixture(n, before), n, n, rng=rng, num_draws=300)
        # What a second draw gives on average, the first one held fixed.
        again = 1 - (1 - p) ** 64
        expected_ratios.append((again[before > 0].mean(), again[before == 0].sum() / again.sum()))
        null.append((expected.srr.estimate, expected.ndr.estimate))
        inside.append((expected.srr.low <= second.srr <= expected.srr.high, expected.ndr.low <= second.ndr <= expected.ndr.high))
    np.testing.assert_allclose(np.mean(null, axis=0), [0.93, 0.07], atol=0.015)
    np.testing.assert_allclose(np.mean(null, axis=0), np.mean(expected_ratios, axis=0), atol=0.012)
    assert np.all(np.mean(inside, axis=0) >= 0.8)


def test_null_does_not_hide_real_expansion() -> None:
    rng = np.random.default_rng(7)
    p = rng.beta(0.3, 1.2, 200)
    n = np.full(200, 64)
    before = rng.binomial(n, p)
    null = ps.support_dynamics_null(ps.fit_mixture(n, before), n, n, rng=rng, num_draws=300)
    after = rng.binomial(n, np.where(rng.random(200) < 0.4, np.maximum(p, 0.2), p))
    assert ps.support_dynamics(n, before, n, after).ndr > null.ndr.high


def test_null_knows_regression_to_the_mean() -> None:
    """Of problems at 0 of 16, 18 % show a success when the same model is drawn again."""
    rng = np.random.default_rng(8)
    p = rng.beta(0.3, 1.2, 2000)
    n = np.full(2000, 16)
    before = rng.binomial(n, p)
    rates = ps.fit_mixture(n, before).draw_rates(rng=rng, num_draws=200)[:, before == 0]
    assert np.mean(1 - (1 - rates) ** 16) == pytest.approx(0.18, abs=0.03)


def test_thinned_null_has_fewer_samples() -> None:
    rng = np.random.default_rng(9)
    n = np.full(200, 64)
    fit = ps.fit_mixture(n, rng.binomial(n, rng.beta(0.3, 1.2, 200)))
    half = np.full(200, 16)
    full, thinned = (ps.support_dynamics_null(fit, size, size, rng=rng, num_draws=300) for size in (n, half))
    assert thinned.ndr.estimate > full.ndr.estimate + 0.02


def test_null_refuses_what_does_not_fit() -> None:
    fit = ps.fit_mixture([4, 4], [1, 2])
    rng = np.random.default_rng(0)
    for before, after in (([4], [4]), ([5, 4], [4, 4]), ([4, 4], [4, -1])):
        with pytest.raises(ValueError):
            ps.support_dynamics_null(fit, before, after, rng=rng)
    with pytest.raises(ValueError, match="paired"):
        ps.support_dynamics([4], [1], [4, 4], [1, 1])


def test_null_of_nothing_is_undefined() -> None:
    null = ps.support_dynamics_null(ps.fit_mixture([0, 0], [0, 0]), [0, 0], [4, 4], rng=np.random.default_rng(0), num_draws=5)
    assert np.isnan(null.srr.estimate)
