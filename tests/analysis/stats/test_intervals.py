"""Intervals: closed forms, and whether they cover."""

import numpy as np
import pytest
from helpers.refusals import assert_refuses
from statsmodels.stats.proportion import proportion_confint

from posttrain.analysis import stats as ps


@pytest.mark.parametrize(("c", "n"), [(0, 10), (3, 10), (10, 10), (1, 400)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_proportions_agree_with_statsmodels(c: int, n: int, level: float) -> None:
    wilson = ps.wilson_interval(c, n, level=level)
    low, high = proportion_confint(c, n, alpha=1 - level, method="wilson")
    assert (wilson.low, wilson.high) == pytest.approx((low, high), abs=1e-9)


def test_proportions_refuse_nonsense() -> None:
    assert np.isnan(ps.wilson_interval(0, 0).low)
    for bad in ((4, 3), (-1, 3)):
        with pytest.raises(ValueError):
            ps.wilson_interval(*bad)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 2, 24, 400])
def test_equal_values_have_a_width_and_hold_the_estimate(value: float, size: int) -> None:
    interval = ps.mean_interval(np.full(size, value))
    assert interval.estimate == value
    assert 0.0 <= interval.low <= value <= interval.high <= 1.0
    # An unseen problem with the opposite value could hide in the share that the rule of three leaves open; a third of it at
    # least.
    assert interval.high - interval.low >= min(0.9, 1.0 / size)
    assert interval.high - interval.low <= 12.0 / size


def test_one_problem_says_almost_nothing() -> None:
    interval = ps.mean_interval([0.3])
    assert interval.high - interval.low > 0.9


def test_no_data_gives_nan() -> None:
    interval = ps.mean_interval([np.nan, np.nan])
    assert np.isnan([interval.estimate, interval.low, interval.high]).all()
    assert np.isnan(ps.paired_delta_interval([], []).low)


def test_nan_is_dropped_with_its_group() -> None:
    full = ps.mean_interval([0.1, 0.5, 0.2], ["a", "a", "b"])
    assert ps.mean_interval([0.1, np.nan, 0.5, 0.2], ["a", "c", "a", "b"]) == full


def test_many_problems_give_the_textbook_interval() -> None:
    values = np.random.default_rng(0).beta(2, 5, 4000)
    interval = ps.mean_interval(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(values.size)
    assert interval.low == pytest.approx(values.mean() - half, abs=3e-4)
    assert interval.high == pytest.approx(values.mean() + half, abs=3e-4)


def test_copies_within_groups_add_nothing() -> None:
    values = np.random.default_rng(1).random(40)
    groups = [str(index) for index in range(40)]
    once, thrice = ps.mean_interval(values), ps.mean_interval(np.repeat(values, 3), list(np.repeat(groups, 3)))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    naive = ps.mean_interval(np.repeat(values, 3))
    assert naive.high - naive.low < 0.7 * (thrice.high - thrice.low)


def test_bad_values_are_refused() -> None:
    for call in (
        lambda: ps.mean_interval([1.2]),
        lambda: ps.mean_interval([0.2], ["a", "b"]),
        lambda: ps.mean_interval([0.2], level=1.0),
        lambda: ps.paired_delta_interval([0.2], [0.3, 0.4]),
        lambda: ps.paired_delta_interval([1.2], [0.3]),
        lambda: ps.mean_interval([[0.2]]),
    ):
        with pytest.raises(ValueError):
            call()


@pytest.mark.statistical
@pytest.mark.parametrize("num_problems", [5, 10, 24, 100])
@pytest.mark.parametrize("k", [1, 8])
def test_mean_interval_covers(num_problems: int, k: int) -> None:
    rng = np.random.default_rng(num_problems + k)
    truth = 0.2 if k == 1 else 1 - np.prod((1.2 + np.arange(8)) / (1.5 + np.arange(8)))
    n = np.full(num_problems, 16)
    hits, widths = [], []
    for _ in range(300):
        interval = ps.mean_interval(ps.pass_at_k(n, rng.binomial(16, rng.beta(0.3, 1.2, num_problems)), k))
        hits.append(interval.low <= truth <= interval.high)
        widths.append(interval.high - interval.low)
    assert np.mean(hits) > 0.925
    # Not bought with width: the normal interval of known variance, half as much again for few problems.
    spread = 0.28 if k == 1 else 0.45
    assert np.mean(widths) < 2 * 1.96 * spread / np.sqrt(num_problems) * (1.5 if num_problems <= 10 else 1.2)


@pytest.mark.statistical
def test_plain_t_would_not_have_covered() -> None:
    """Guards the test above: the interval without pseudo-observations fails its bound on the same kind of data."""
    from scipy import stats

    rng = np.random.default_rng(3)
    values = rng.binomial(16, rng.beta(0.3, 1.2, (2000, 5))) / 16
    half = stats.t.ppf(0.975, 4) * values.std(axis=1, ddof=1) / np.sqrt(5)
    assert np.mean(np.abs(values.mean(axis=1) - 0.2) <= half) < 0.9


@pytest.mark.statistical
@pytest.mark.parametrize("num_problems", [10, 24, 100])
@pytest.mark.parametrize("changed", [0.0, 0.05, 0.3])
def test_paired_delta_interval_covers(num_problems: int, changed: float) -> None:
    rng = np.random.default_rng(int(100 * changed) + num_problems)
    # E[max(p, .8) − p] for p ~ Beta(.3, 1.2).
    big = rng.beta(0.3, 1.2, 400_000)
    truth = changed * float(np.mean(np.maximum(big, 0.8) - big))
    hits = []
    for _ in range(300):
        before = rng.beta(0.3, 1.2, num_problems)
        after = np.where(rng.random(num_problems) < changed, np.maximum(before, 0.8), before)
        interval = ps.paired_delta_interval(rng.binomial(16, before) / 16, rng.binomial(16, after) / 16)
        hits.append(interval.low <= truth <= interval.high)
    assert np.mean(hits) > 0.92


def test_pairing_narrows() -> None:
    rng = np.random.default_rng(5)
    before = rng.random(60)
    after = np.clip(before + 0.05, 0, 1)
    paired, unpaired = ps.paired_delta_interval(before, after), ps.paired_delta_interval(before, rng.permutation(after))
    assert paired.estimate == pytest.approx(unpaired.estimate)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_weights_repeat_problems_and_next_to_none_leaves_them_out() -> None:
    rng = np.random.default_rng(11)
    before, after = rng.random(30), rng.random(30)
    plain = ps.paired_delta_interval(before, after)
    alike = ps.paired_delta_interval(before, after, weights=np.full(30, 7.0))
    assert (alike.estimate, alike.low, alike.high) == pytest.approx((plain.estimate, plain.low, plain.high))
    padded = ps.paired_delta_interval(
        np.r_[before, np.ones(200)], np.r_[after, np.zeros(200)], weights=np.r_[np.ones(30), np.full(200, 1e-9)]
    )
    assert (padded.estimate, padded.low, padded.high) == pytest.approx((plain.estimate, plain.low, plain.high), abs=0.003)
    heavy = ps.paired_delta_interval([0.0, 0.5], [1.0, 0.5], weights=[3.0, 1.0])
    assert heavy.estimate == pytest.approx(0.75)
    assert_refuses(ps.paired_delta_interval, {"before": [0.0], "after": [1.0], "weights": [1.0]}, weights=[0.0])


@pytest.mark.parametrize("num_problems", [5, 10, 24, 50])
def test_without_a_failure_or_a_change_the_interval_is_as_wide_as_for_a_proportion(num_problems: int) -> None:
    passed = np.ones(num_problems)
    assert ps.mean_interval(passed).low <= ps.wilson_interval(num_problems, num_problems).low + 1e-12
    assert ps.mean_interval(1 - passed).high >= ps.wilson_interval(0, num_problems).high - 1e-12
    same = ps.paired_delta_interval(passed, passed)
    assert same.high == pytest.approx(-same.low)
    assert same.high >= ps.wilson_interval(0, num_problems).high - 1e-12
    # Small changes everywhere say that changes are small: the interval stays near that of t.
    small = ps.paired_delta_interval(np.full(num_problems, 0.5), 0.5 + 0.01 * (-1.0) ** np.arange(num_problems))
    assert small.high < same.high


def test_rare_failures_do_not_make_an_interval_too_short() -> None:
    rng = np.random.default_rng(0)
    for num_problems, rate in ((10, 0.8), (10, 0.9), (50, 0.97), (24, 0.9)):
        values = (rng.random((600, num_problems)) < rate).astype(float)
        found = [ps.mean_interval(row) for row in values]
        assert np.mean([i.low <= rate <= i.high for i in found]) >= 0.92
        changed = [ps.paired_delta_interval(np.ones(num_problems), row) for row in values]
        assert np.mean([i.low <= rate - 1 <= i.high for i in changed]) >= 0.92
