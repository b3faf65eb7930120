"""Before and after on the same problems: tests of single ones, and of all of them together."""

import itertools

import numpy as np
import pytest
from helpers.refusals import assert_refuses
from scipy.stats import false_discovery_control, fisher_exact, hypergeom

from posttrain.analysis import stats as ps


def test_p_values_are_those_of_fisher() -> None:
    rng = np.random.default_rng(0)
    n0, n1 = rng.integers(1, 30, 40), rng.integers(1, 30, 40)
    c0, c1 = rng.binomial(n0, 0.3), rng.binomial(n1, 0.5)
    tests = ps.problem_change_tests(n0, c0, n1, c1)
    for index in range(40):
        table = [[c1[index], n1[index] - c1[index]], [c0[index], n0[index] - c0[index]]]
        assert tests.p_expansion[index] == pytest.approx(fisher_exact(table, alternative="greater").pvalue, rel=1e-9)
        assert tests.p_attrition[index] == pytest.approx(fisher_exact(table, alternative="less").pvalue, rel=1e-9)


def discrete_fdr_by_enumeration(n: int, before: np.ndarray, after: np.ndarray, rate: float, below: float | None) -> np.ndarray:
    """DBH-SU as written in the paper, on lists: all attainable p-values, critical values by search."""

    def null(total: int) -> list[tuple[float, float]]:
        ways = range(max(0, total - n), min(n, total) + 1)
        chance = hypergeom(2 * n, total, n)
        counts = [below is None or min(c, total - c) / n < below for c in ways]
        tails = [min(float(chance.cdf(c)), float(chance.sf(c - 1))) for c in ways]
        return [(tail if yes else 1.0, float(chance.pmf(c))) for c, tail, yes in zip(ways, tails, counts, strict=True)]

    nulls = [null(int(b + a)) for b, a in zip(before, after, strict=True)]
    p = np.array([nulls[i][int(after[i]) - max(0, int(before[i] + after[i]) - n)][0] for i in range(len(before))])

    def cdf(i: int, t: float) -> float:
        return min(1.0, sum(mass for value, mass in nulls[i] if value <= t * (1 + 1e-9)))

    def odds(t: float, at: float) -> float:
        terms = [(cdf(i, t), cdf(i, at)) for i in range(len(p))]
        return sum(f / (1 - g) if g < 1 else (np.inf if f > 0 else 0.0) for f, g in terms)

    attainable = sorted({value for one in nulls for value, _ in one})
    tau = max((t for t in attainable if odds(t, t) <= rate * len(p)), default=0.0)
    rejected = np.zeros(len(p), dtype=bool)
    for t in (t for t in attainable if t <= tau):
        at_or_below = p <= t * (1 + 1e-9)
        if at_or_below.any() and odds(t, tau) <= rate * at_or_below.sum():
            rejected |= at_or_below
    return rejected


@pytest.mark.parametrize("below", [None, 0.15])
def test_rejections_are_those_of_the_discrete_procedure(below: float | None) -> None:
    rng = np.random.default_rng(1)
    some = 0
    for _ in range(25):
        before, after = rng.binomial(10, rng.beta(0.4, 1.0, 12)), rng.binomial(10, rng.beta(1.0, 1.0, 12))
        n = np.full(12, 10)
        tests = ps.problem_change_tests(n, before, n, after, rate=0.1, below=below)
        found = np.minimum(tests.q_expansion, tests.q_attrition) <= 0.1
        np.testing.assert_array_equal(found, discrete_fdr_by_enumeration(10, before, after, 0.1, below))
        some += found.any()
    assert some > 4


def test_problems_that_can_never_be_significant_do_not_cost_power() -> None:
    crowd = ps.problem_change_tests([16] * 101, [0] + [1] * 100, [16] * 101, [8] + [1] * 100)
    plain = false_discovery_control([*crowd.p_expansion, *crowd.p_attrition])
    assert plain[0] > 0.05 > crowd.q_expansion[0]


def test_only_a_side_below_the_rate_counts_where_one_is_given() -> None:
    n, before, after = np.array([64, 64, 64, 256]), np.array([0, 12, 40, 1]), np.array([12, 40, 0, 40])
    tests = ps.problem_change_tests(n, before, n, after, below=0.0064)
    assert np.all(tests.q_expansion[[0, 3]] < 0.01)
    assert tests.q_attrition[2] < 0.01
    assert tests.p_expansion[1] < 1e-6
    assert tests.q_expansion[1] == tests.q_attrition[1] == 1.0  # a rise inside support
    one_more = ps.problem_change_tests(n, [0, 12, 40, 2], n, after, below=0.0064)
    assert one_more.q_expansion[3] == 1.0  # 2 of 256 is no longer below
    uneven = ps.problem_change_tests([64, 256], [1, 1], [256, 64], [80, 30], below=0.0064)
    assert uneven.q_expansion[0] == 1.0
    assert uneven.q_expansion[1] < 0.01


@pytest.mark.statistical
def test_few_rises_from_zero_among_many_problems_are_found() -> None:
    """A quarter of the rises to .1 at 64 samples, even if they are 2 among 200; one in twenty runs without a change finds any."""
    rng = np.random.default_rng(6)
    n, runs = np.full(200, 64), 400
    found, false = 0.0, 0
    for _ in range(runs):
        before = rng.beta(0.3, 1.2, 200)
        counts = rng.binomial(n, before), rng.binomial(n, before)
        same = ps.problem_change_tests(n, counts[0], n, counts[1], below=0.0064)
        false += min(same.q_expansion.min(), same.q_attrition.min()) <= 0.05
        counts[0][:2], counts[1][:2] = 0, rng.binomial(64, 0.1, 2)
        found += float(np.mean(ps.problem_change_tests(n, counts[0], n, counts[1], below=0.0064).q_expansion[:2] <= 0.05))
    assert found / runs >= 0.25
    assert false / runs <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / runs)


def test_problems_without_samples_do_not_join_the_family() -> None:
    alone = ps.problem_change_tests([16], [0], [16], [8])
    padded = ps.problem_change_tests([16, 0, 16], [0, 0, 0], [16, 5, 0], [8, 5, 0])
    assert padded.q_expansion[0] == alone.q_expansion[0] < 0.01
    np.testing.assert_array_equal(padded.q_expansion[1:], 1.0)
    assert ps.problem_change_tests([], [], [], []).q_attrition.shape == (0,)
    np.testing.assert_array_equal(ps.problem_change_tests([8, 8], [0, 8], [8, 8], [0, 8]).q_expansion, 1.0)


def test_the_two_directions_mirror_each_other() -> None:
    rng = np.random.default_rng(2)
    n0, n1 = rng.integers(4, 40, 30), rng.integers(4, 40, 30)
    c0, c1 = rng.binomial(n0, 0.2), rng.binomial(n1, 0.6)
    forth, back = ps.problem_change_tests(n0, c0, n1, c1), ps.problem_change_tests(n1, c1, n0, c0)
    np.testing.assert_allclose(forth.q_expansion, back.q_attrition)
    np.testing.assert_allclose(forth.p_attrition, back.p_expansion)


@pytest.mark.statistical
def test_false_discoveries_stay_rare_and_real_ones_are_found() -> None:
    """2,000 replicates and more distributions: benchmarks/change_power.py."""
    rng = np.random.default_rng(3)
    n = np.full(100, 64)
    false = 0
    for _ in range(300):
        p = rng.beta(0.3, 1.2, 100)
        tests = ps.problem_change_tests(n, rng.binomial(n, p), n, rng.binomial(n, p))
        false += min(tests.q_expansion.min(), tests.q_attrition.min()) <= 0.05
    assert false / 300 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)
    for samples, least in ((64, 0.25), (256, 0.9)):
        n, found = np.full(200, samples), []
        for _ in range(10):
            before, after = rng.beta(0.3, 1.2, (1, 200)).repeat(2, axis=0)
            before[:40], after[:40] = 0.0, 0.1
            found.append(
                np.mean(ps.problem_change_tests(n, rng.binomial(n, before), n, rng.binomial(n, after)).q_expansion[:40] <= 0.05)
            )
        assert np.mean(found) >= least


def test_a_rate_of_discoveries_outside_the_unit_interval_is_refused() -> None:
    accepted = {"n_before": [4], "c_before": [1], "n_after": [4], "c_after": [2], "rate": 0.05, "below": 0.5}
    assert_refuses(ps.problem_change_tests, accepted, rate=1.0)
    assert_refuses(ps.problem_change_tests, accepted, below=0.0)
    assert_refuses(ps.problem_change_tests, accepted, n_after=[4, 4], c_after=[1, 1])


# ------------------------------------------------------------------------------------------------------------- all problems


def test_p_values_are_those_of_explicit_permutations() -> None:
    """Three problems of two samples each: every way to deal the samples, by hand."""
    before, after = np.array([[0, 0], [0, 1], [0, 0]]), np.array([[1, 1], [1, 1], [0, 1]])
    n = np.full(3, 2)
    test = ps.permutation_test(
        n, before.sum(axis=1), n, after.sum(axis=1), [1, 2], rng=np.random.default_rng(0), num_draws=20_000
    )
    pooled = np.concatenate([before, after], axis=1)
    ways = list(itertools.combinations(range(4), 2))
    rows = []
    for deal in itertools.product(ways, repeat=3):
        first = np.array([pooled[i, list(chosen)].sum() for i, chosen in enumerate(deal)])
        last = pooled.sum(axis=1) - first
        rows.append(
            [(last - first).mean() / 2, ((last > 0) * 1.0 - (first > 0)).mean(), np.where(first == 0, last / 2, 0).mean(), np.where(last == 0, first / 2, 0).mean()]
        )  # fmt: skip
    null = np.array(rows)
    observed = np.array([(4 + 1 - 1) / 6, 2 / 3, 1.5 / 3, 0.0])
    np.testing.assert_allclose(test.observed, observed)
    np.testing.assert_allclose(test.expected, null.mean(axis=0), atol=1e-12)
    scores = (null - null.mean(axis=0)) / null.std(axis=0)
    seen = (observed - null.mean(axis=0)) / null.std(axis=0)
    scores[:, :2], seen[:2] = np.abs(scores[:, :2]), np.abs(seen[:2])
    exact = (scores.max(axis=1)[:, None] >= seen - 1e-9).mean(axis=0)
    np.testing.assert_allclose(test.adjusted_p, exact, atol=0.015)


@pytest.mark.statistical
def test_one_model_twice_is_told_apart_in_one_of_twenty_at_most() -> None:
    rng = np.random.default_rng(4)
    n = np.repeat([16, 24], 25)
    shown = 0
    for _ in range(300):
        p = rng.beta(0.3, 1.2, 50)
        test = ps.permutation_test(n, rng.binomial(n, p), n, rng.binomial(n, p), [1, 4, 16], rng=rng, num_draws=200)
        shown += test.adjusted_p.min() <= 0.05
    assert shown / 300 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 300)


def test_gains_and_losses_that_cancel_are_seen() -> None:
    rng = np.random.default_rng(5)
    n = np.full(60, 32)
    p = rng.beta(1.0, 1.0, 60)
    before, after = p.copy(), p.copy()
    before[:15], after[:15] = 0.0, 0.3
    before[15:30], after[15:30] = 0.3, 0.0
    test = ps.permutation_test(n, rng.binomial(n, before), n, rng.binomial(n, after), [1, 8], rng=rng, num_draws=500)
    assert dict(zip(test.names, test.adjusted_p <= 0.05, strict=True)) == {
        "pass@1": False,
        "pass@8": False,
        "gained": True,
        "lost": True,
    }


def test_the_permutation_test_refuses_what_was_not_sampled_and_is_undefined_without_data() -> None:
    rng = np.random.default_rng(6)
    counts = {"n_before": [4, 2], "c_before": [1, 1], "n_after": [4, 2], "c_after": [1, 1]}
    accepted = {**counts, "ks": [2], "rng": rng, "num_draws": 9}
    assert_refuses(ps.permutation_test, accepted, ks=[4])
    assert_refuses(ps.permutation_test, accepted, num_draws=0)
    assert np.isnan(ps.permutation_test([0], [0], [4], [1], [1], rng=rng).adjusted_p).all()
