"""Curves of deltas: families of tests, crossings, equivalence."""

import itertools

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
        deltas = ps.max_t_deltas(before, after, rng=rng)
        wrong.append(bool(((deltas.low > 0) | (deltas.high < 0)).any()))
        assert np.all((deltas.low <= deltas.estimate) & (deltas.estimate <= deltas.high))
    assert np.mean(wrong) <= 0.1


def test_max_t_finds_a_change_and_is_sharper_than_bonferroni() -> None:
    rng = np.random.default_rng(2)
    p = rng.beta(0.5, 1.0, 100)
    before, after = curves(p), curves(np.clip(p + rng.normal(0.08, 0.05, 100), 0, 1))
    deltas = ps.max_t_deltas(before, after, rng=rng)
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
    deltas = ps.max_t_deltas(before, after, rng=rng)
    kept = np.arange(20) != 4
    assert deltas.estimate[1] == pytest.approx((after - before)[kept, 1].mean())
    assert np.isnan(deltas.low[2])
    empty = ps.max_t_deltas(np.full((2, 2), np.nan), np.zeros((2, 2)), rng=rng)
    assert np.isnan(empty.estimate).all()


def test_groups_widen_simultaneous_intervals() -> None:
    rng = np.random.default_rng(4)
    before, after = (np.repeat(rng.random((30, 2)), 4, axis=0) for _ in range(2))
    groups = [str(index // 4) for index in range(120)]
    single = ps.max_t_deltas(before, after, rng=rng)
    grouped = ps.max_t_deltas(before, after, groups, rng=rng)
    np.testing.assert_allclose(grouped.estimate, single.estimate)
    assert np.all(grouped.high - grouped.low > 1.6 * (single.high - single.low))


def test_crossing_is_found_where_it_is_planted() -> None:
    rng = np.random.default_rng(5)
    # Before: all problems at .1. After: half mastered, half lost; the mean curve is flat at .5 and meets 1 − .9^k at k = 6.58.
    before, after = curves(np.full(80, 0.1)), curves(np.repeat([1.0, 0.0], 40))
    crossing = ps.curve_crossing(KS, before, after, rng=rng)
    assert crossing.probability > 0.99
    assert crossing.k.low <= 6.58 <= crossing.k.high
    assert crossing.k.estimate == pytest.approx(6.58, rel=0.05)
    assert crossing.k.high < 16


def test_no_crossing_where_one_curve_stays_above() -> None:
    rng = np.random.default_rng(6)
    p = rng.beta(1, 2, 50)
    crossing = ps.curve_crossing(KS, curves(p), curves(np.clip(p + 0.1, 0, 1)), rng=rng)
    assert np.isnan(crossing.k.estimate)
    assert crossing.probability < 0.05
    # Falling from the first k on is no crossing either.
    assert np.isnan(ps.curve_crossing(KS, curves(p), curves(p / 2), rng=rng).k.estimate)
    accepted = {"k": KS, "before": curves(p), "after": curves(p), "rng": rng}
    assert_refuses(ps.curve_crossing, accepted, k=KS[::-1])


@pytest.mark.statistical
@pytest.mark.parametrize("num_problems", [1, 2, 3])
def test_max_t_keeps_its_level_with_very_few_problems(num_problems: int) -> None:
    rng = np.random.default_rng(9)
    n = np.full(num_problems, 16)
    wrong = []
    for _ in range(100):
        p = rng.beta(0.5, 1.0, num_problems)
        before, after = (
            np.stack([ps.pass_at_k(n, c, int(k)) for k in KS[:5]], axis=1) for c in rng.binomial(n, p, (2, num_problems))
        )
        deltas = ps.max_t_deltas(before, after, rng=rng)
        wrong.append(bool(((deltas.low > 0) | (deltas.high < 0)).any()))
    assert np.mean(wrong) <= 0.05


def test_a_group_of_its_own_for_every_problem_is_no_group() -> None:
    rng = np.random.default_rng(10)
    before, after = rng.random((40, 3)), rng.random((40, 3))
    names = [str(i) for i in range(40)]
    plain, grouped = (ps.max_t_deltas(before, after, groups, rng=np.random.default_rng(0)) for groups in (None, names))
    np.testing.assert_allclose(plain.low, grouped.low, atol=1e-12)


def test_first_loss_by_hand() -> None:
    ks = [1, 2, 3, 4]
    assert ps.first_loss(ks, [0.1, -0.1, -0.2, -0.3], [0.3, 0.2, 0.1, -0.1]) == ps.FirstLoss(low=2, high=4, largest_k=4)
    assert ps.first_loss(ks, [0.1, 0.1, 0.1, 0.1], [0.3, 0.2, 0.2, 0.2]) == ps.FirstLoss(low=None, high=None, largest_k=4)
    assert ps.first_loss(ks, [-0.3] * 4, [0.2] * 4) == ps.FirstLoss(low=1, high=None, largest_k=4)
    # What lies between two k is not excluded.
    assert ps.first_loss([1, 2, 8], [0.1, 0.1, -0.2], [0.3, 0.3, -0.1]) == ps.FirstLoss(low=3, high=8, largest_k=8)
    assert_refuses(ps.first_loss, {"ks": ks, "low": [0.0] * 4, "high": [0.1] * 4}, ks=ks[::-1])


def test_dense_ks() -> None:
    assert ps.dense_ks(16) == list(range(1, 17))
    assert ps.dense_ks(0) == []
    most = ps.dense_ks(1000)
    assert (most[:64], most[-1]) == (list(range(1, 65)), 1000)
    assert max(b / a for a, b in itertools.pairwise(most[63:])) <= 1.05 + 1e-9


@pytest.mark.statistical
@pytest.mark.parametrize("loss", [0.02, 0.0])
def test_the_first_loss_is_covered_where_the_loss_is_faint(loss: float) -> None:
    """Most problems gain from .2 on, a few lose a little at large k; without a loss the set says that there need be none."""
    rng = np.random.default_rng(11)
    ks = ps.dense_ks(32)
    covered = []
    for _ in range(40):
        lost = rng.random(120) < 0.35
        first = np.where(lost, 0.05, rng.beta(2.0, 2.0, 120))
        last = np.where(lost, 0.05 - loss, np.minimum(1.0, first + 0.05))
        true = np.array([(0.35 * ((1 - 0.05) ** k - (1 - 0.05 + loss) ** k)) for k in ks])
        grid = np.linspace(0.001, 0.999, 400)
        density = grid * (1 - grid) / (grid * (1 - grid)).sum()
        true += [0.65 * float(density @ ((1 - grid) ** k - (1 - np.minimum(1.0, grid + 0.05)) ** k)) for k in ks]
        below = np.flatnonzero(true < 0)
        n = np.full(120, 32)
        sides = [np.stack([ps.pass_at_k(n, rng.binomial(n, p), k) for k in ks], axis=1) for p in (first, last)]
        band = ps.max_t_deltas(*sides, rng=rng)
        found = ps.first_loss(ks, band.low, band.high)
        if below.size:
            covered.append(found.low is not None and found.low <= ks[below[0]] <= (found.high or np.inf))
        else:
            covered.append(found.high is None)
        crossing = ps.curve_crossing(ks, *sides, rng=rng)
        assert np.isnan(crossing.k.estimate) or crossing.probability >= 0.95
    assert np.mean(covered) >= 0.9


def test_equivalence() -> None:
    rng = np.random.default_rng(7)
    before = rng.uniform(0.2, 0.8, 200)

    def verdict(after: NDArray[np.float64], margin: float) -> ps.EquivalenceVerdict:
        return ps.equivalence_test(ps.paired_delta_interval(before[: after.size], after, level=0.9), margin).verdict

    small, large = before + rng.normal(0, 0.02, 200), before + 0.15
    assert verdict(small, 0.05) == "equivalent"
    assert verdict(large, 0.05) == "different"
    assert verdict(large, 0.15) == "undecided"
    # Few problems without a change prove nothing.
    assert verdict(before[:5], 0.05) == "undecided"
    assert verdict(before[:0], 0.05) == "undecided"
    assert_refuses(ps.equivalence_test, {"interval": ps.paired_delta_interval(before, small), "margin": 0.05}, margin=0.0)


@pytest.mark.statistical
def test_equivalence_keeps_its_error() -> None:
    rng = np.random.default_rng(8)
    wrong = 0
    for _ in range(300):
        before = rng.uniform(0.2, 0.8, 50)
        after = before + 0.05 + rng.normal(0, 0.04, 50).clip(-0.15, 0.15)
        wrong += ps.equivalence_test(ps.paired_delta_interval(before, after, level=0.9), 0.05).verdict == "equivalent"
    assert wrong / 300 <= 0.08
