"""Curves of deltas: families of tests, crossings, equivalence."""

import numpy as np
import pytest
from helpers.refusals import assert_refuses
from numpy.typing import NDArray

from posttrain.analysis import stats as ps

KS = np.array([1, 2, 4, 8, 16, 32])


def curves(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - (1 - p[:, None]) ** KS


@pytest.mark.statistical
def test_max_t_controls_the_family() -> None:
    rng = np.random.default_rng(1)
    n = np.full(60, 32)
    wrong = []
    for _ in range(120):
        p = rng.beta(0.5, 1.0, 60)
        before, after = (np.stack([ps.pass_at_k(n, c, k) for k in KS], axis=1) for c in rng.binomial(n, p, (2, 60)))
        deltas = ps.max_t_deltas(before, after, rng=rng, num_draws=200)
        wrong.append(bool(((deltas.low > 0) | (deltas.high < 0)).any()))
        assert np.all((deltas.low <= deltas.estimate) & (deltas.estimate <= deltas.high))
    assert np.mean(wrong) <= 0.1


def test_max_t_finds_a_change_and_is_sharper_than_bonferroni() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(0.5, 1.0, 100)
    before, after = curves(p), curves(np.clip(p + rng.normal(0.08, 0.05, 100), 0, 1))
    deltas = ps.max_t_deltas(before, after, rng=rng, num_draws=500)
    assert deltas.low[0] > 0
    alone, bonferroni = (
        np.array(
            [
                one.high - one.low
                for one in (ps.paired_delta_interval(b, a, level=level) for b, a in zip(before.T, after.T, strict=True))
            ]
        )
        for level in (0.95, 1 - 0.05 / KS.size)
    )
    width = deltas.high - deltas.low
    assert (width >= alone - 1e-12).all()
    assert width.mean() < 1.1 * bonferroni.mean()


def test_max_t_leaves_out_what_is_undefined() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.random((20, 3)), rng.random((20, 3))
    before[:, 2] = np.nan
    before[4, 0] = np.nan
    deltas = ps.max_t_deltas(before, after, rng=rng, num_draws=50)
    kept = np.arange(20) != 4
    assert deltas.estimate[1] == pytest.approx((after - before)[kept, 1].mean())
    assert np.isnan(deltas.low[2])
    empty = ps.max_t_deltas(np.full((2, 2), np.nan), np.zeros((2, 2)), rng=rng)
    assert np.isnan(empty.estimate).all()


def test_groups_widen_simultaneous_intervals() -> None:
    rng = np.random.default_rng(4)
    before, after = (np.repeat(rng.random((30, 2)), 4, axis=0) for _ in range(2))
    groups = [str(index // 4) for index in range(120)]
    single = ps.max_t_deltas(before, after, rng=rng, num_draws=200)
    grouped = ps.max_t_deltas(before, after, groups, rng=rng, num_draws=200)
    np.testing.assert_allclose(grouped.estimate, single.estimate)
    assert np.all(grouped.high - grouped.low > 1.6 * (single.high - single.low))


def test_crossing_is_found_where_it_is_planted() -> None:
    rng = np.random.default_rng(5)
    # Before: all problems at .1. After: half mastered, half lost; the mean curve is flat at .5 and meets 1 − .9^k at k = 6.58.
    before, after = curves(np.full(80, 0.1)), curves(np.repeat([1.0, 0.0], 40))
    crossing = ps.curve_crossing(KS, before, after, rng=rng, num_draws=400)
    assert crossing.probability > 0.99
    assert crossing.k.low <= 6.58 <= crossing.k.high
    assert crossing.k.estimate == pytest.approx(6.58, rel=0.05)
    assert crossing.k.high < 16


def test_no_crossing_where_one_curve_stays_above() -> None:
    rng = np.random.default_rng(6)
    p = rng.beta(1, 2, 50)
    crossing = ps.curve_crossing(KS, curves(p), curves(np.clip(p + 0.1, 0, 1)), rng=rng, num_draws=100)
    assert np.isnan(crossing.k.estimate)
    assert crossing.probability == 0.0
    # Falling from the first k on is no crossing either.
    assert np.isnan(ps.curve_crossing(KS, curves(p), curves(p / 2), rng=rng, num_draws=100).k.estimate)
    accepted = {"k": KS, "before": curves(p), "after": curves(p), "rng": rng, "num_draws": 100}
    assert_refuses(ps.curve_crossing, accepted, k=KS[::-1])


def test_equivalence() -> None:
    rng = np.random.default_rng(7)
    before = rng.uniform(0.2, 0.8, 200)
    small, large = before + rng.normal(0, 0.02, 200), before + 0.15
    assert ps.equivalence_test(before, small, 0.05).verdict == "equivalent"
    assert ps.equivalence_test(before, large, 0.05).verdict == "different"
    assert ps.equivalence_test(before, large, 0.15).verdict == "undecided"
    # Few problems without a change prove nothing.
    assert ps.equivalence_test([0.0] * 5, [0.0] * 5, 0.05).verdict == "undecided"
    assert ps.equivalence_test([], [], 0.05).verdict == "undecided"
    assert_refuses(ps.equivalence_test, {"before": before, "after": small, "margin": 0.05}, margin=0.0)


@pytest.mark.statistical
def test_equivalence_keeps_its_error() -> None:
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(300):
        before = rng.uniform(0.2, 0.8, 50)
        after = before + 0.05 + rng.normal(0, 0.04, 50).clip(-0.15, 0.15)
        wrong += ps.equivalence_test(before, after, 0.05).verdict == "equivalent"
    assert wrong / 300 <= 0.08
