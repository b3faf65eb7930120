"""Which problems show a success before and after, their null, and gains on selected problems."""

import numpy as np
import pytest
from helpers.refusals import assert_refuses

from posttrain.analysis import stats as ps


def test_support_dynamics_by_hand() -> None:
    dynamics = ps.support_dynamics([4] * 6 + [0], [1, 2, 4, 0, 1, 0, 0], [4] * 7, [1, 1, 0, 3, 4, 0, 4])
    assert dynamics.srr == pytest.approx(3 / 4)
    assert dynamics.ndr == pytest.approx(1 / 4)
    assert dynamics.sds == pytest.approx(2 * 0.75 * 0.25)
    assert dynamics.nscr == 0.0


def test_support_dynamics_undefined() -> None:
    dynamics = ps.support_dynamics([4, 4], [0, 0], [4, 4], [0, 0])
    assert np.isnan(dynamics).all()


def test_null_by_enumeration() -> None:
    """All ways to deal two successes of two problems, two samples on each side."""
    null = ps.support_dynamics_null([2, 2], [1, 1], [2, 2], [0, 0], rng=np.random.default_rng(0), num_draws=20_000)
    # One problem: its success lies before or after with equal chance. Both before: NSCR −1; one each: 0; both after: +1.
    assert null.nscr.estimate == pytest.approx(0.0, abs=0.02)
    assert (null.nscr.low, null.nscr.high) == (-1.0, 1.0)
    # Two successes of four samples, two a side: on both sides in 4 of 6 ways, before only in 1, after only in 1.
    both = ps.support_dynamics_null([2], [2], [2], [0], rng=np.random.default_rng(1), num_draws=20_000)
    assert both.srr.estimate == pytest.approx((4 / 6) / (5 / 6), abs=0.01)
    # More successes than a side holds: some lie on either side for sure.
    assert ps.support_dynamics_null([2], [2], [3], [2], rng=np.random.default_rng(2)).srr.low == 1.0


@pytest.mark.statistical
def test_null_is_exceeded_by_one_model_as_often_as_it_says() -> None:
    """Also on rates where a fitted distribution of rates is biased: half of the problems far below one over the samples."""
    rng = np.random.default_rng(3)
    above = np.zeros((2, 250))
    for row, draw in enumerate((lambda: np.where(rng.random(100) < 0.5, 0.01, 0.5), lambda: rng.beta(0.3, 1.2, 100))):
        for run in range(above.shape[1]):
            rates, n = draw(), np.full(100, 16)
            before, after = rng.binomial(n, rates), rng.binomial(n, rates)
            null = ps.support_dynamics_null(n, before, n, after, rng=rng, num_draws=200)
            above[row, run] = ps.support_dynamics(n, before, n, after).ndr > null.ndr.high
    assert above.mean(axis=1).max() <= 0.025 + 2.5 * np.sqrt(0.025 * 0.975 / above.shape[1])


@pytest.mark.statistical
def test_null_does_not_hide_real_expansion() -> None:
    rng = np.random.default_rng(7)
    p = rng.beta(0.3, 1.2, 200)
    n = np.full(200, 64)
    before, after = rng.binomial(n, p), rng.binomial(n, np.where(rng.random(200) < 0.4, np.maximum(p, 0.2), p))
    null = ps.support_dynamics_null(n, before, n, after, rng=rng)
    assert ps.support_dynamics(n, before, n, after).ndr > null.ndr.high


def test_null_refuses_what_does_not_fit_and_is_undefined_without_data() -> None:
    rng = np.random.default_rng(0)
    counts = {"n_before": [4], "c_before": [1], "n_after": [4], "c_after": [1]}
    assert_refuses(ps.support_dynamics, counts, n_after=[4, 4], c_after=[1, 1])
    assert_refuses(ps.support_dynamics_null, counts | {"rng": rng}, num_draws=0)
    assert_refuses(ps.support_dynamics_null, counts | {"rng": rng}, level=1.0)
    for nothing in (([], [], [], []), ([0, 0], [0, 0], [4, 4], [1, 1])):
        assert np.isnan(ps.support_dynamics_null(*nothing, rng=rng).srr.estimate)


def test_thinning_keeps_rates_and_refuses_more_than_there_is() -> None:
    rng = np.random.default_rng(12)
    n, kept = np.full(4000, 20), np.full(4000, 5)
    thinned = ps.thin(n, np.full(4000, 8), kept, rng=rng)
    assert thinned.mean() / 5 == pytest.approx(0.4, abs=0.02)
    assert thinned.max() <= 5
    assert_refuses(ps.thin, {"num_samples": [4], "num_correct": [2], "num_kept": [4], "rng": rng}, num_kept=[5])


@pytest.mark.statistical
@pytest.mark.parametrize("second_run", [False, True])
def test_problems_never_solved_before_gain_nothing_when_nothing_changed(second_run: bool) -> None:
    """Selected and judged by one draw they seem to gain; judged on fresh samples they do not."""
    rng = np.random.default_rng(13)
    naive, gain, inside = [], [], []
    for _ in range(150):
        p = rng.beta(0.3, 1.2, 100)
        n = np.full(100, 16)
        before, after = rng.binomial(n, p), rng.binomial(n, p)
        fresh = (n, rng.binomial(n, p)) if second_run else None
        found = ps.never_solved_gain(n, before, n, after, fresh=fresh)
        naive.append(found.naive_gain)
        gain.append(found.gain.estimate)
        inside.append(found.gain.low <= 0.0 <= found.gain.high)
    error = np.std(gain) / np.sqrt(len(gain))
    assert abs(np.mean(gain)) < 3 * error < 0.005
    assert np.mean(naive) > 0.01 > 5 * abs(np.mean(gain))
    assert np.mean(inside) >= 0.92


def test_a_real_gain_on_problems_never_solved_is_found_whole() -> None:
    rng = np.random.default_rng(14)
    n = np.full(80, 32)
    found = ps.never_solved_gain(n, np.zeros(80, dtype=int), n, rng.binomial(n, 0.25))
    assert found.num_problems == pytest.approx(80)
    assert found.gain.low <= 0.25 <= found.gain.high
    assert found.gain.estimate == pytest.approx(found.naive_gain)


def test_selection_by_halves_is_an_average_over_all_ways_to_halve() -> None:
    # One success in four samples: half of the ways to take two of them miss it, and it then lies in the other two.
    found = ps.never_solved_gain([4, 4], [1, 0], [4, 4], [2, 2])
    assert found.num_problems == pytest.approx(1.5)
    assert found.gain.estimate == pytest.approx((0.5 * (0.5 - 0.5) + 1.0 * (0.5 - 0.0)) / 1.5)
    nothing = ps.never_solved_gain([4], [4], [4], [4])
    assert nothing.num_problems == 0.0
    assert np.isnan(nothing.gain.estimate)
    assert np.isnan(ps.never_solved_gain([1], [0], [1], [1]).naive_gain)
    counts = {"n_before": [4], "c_before": [0], "n_after": [4], "c_after": [1], "fresh": ([4], [0])}
    assert_refuses(ps.never_solved_gain, counts, fresh=([4, 4], [0, 0]))
