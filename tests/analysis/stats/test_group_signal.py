"""The share of groups without signal, against enumeration and against shares that are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from helpers.group_outcomes import outcomes
from helpers.refusals import assert_refuses

from posttrain.analysis.stats import GROUP_SIZES, GroupOutcomes, GroupSignal, NoSignal, ScoreTies, signal_curve


def causes(known: GroupOutcomes, size: int) -> dict[NoSignal, float]:
    return {cause: share.estimate for cause, share in GroupSignal(known).share(size).causes.items()}


def test_observed_sizes_are_the_share_of_all_subsets() -> None:
    rewards = [1, 1, 0, 0, 0, 1]
    subsets = list(combinations(rewards, 3))
    none, every = (sum(sum(one) == total for one in subsets) / len(subsets) for total in (0, 3))
    found = GroupSignal(outcomes([6, 6], [3, 3])).share(3)
    assert found.total.estimate == pytest.approx(none + every)
    assert found.causes[NoSignal.TOO_HARD].estimate == pytest.approx(none)
    assert found.causes[NoSignal.TOO_EASY].estimate == pytest.approx(every)
    assert not found.extrapolated


@pytest.mark.parametrize("equally", [True, False])
def test_causes_sum_to_the_total_at_every_size(equally: bool) -> None:
    rng = np.random.default_rng(0)
    n = np.full(40, 16) if equally else rng.integers(8, 25, 40)
    c = rng.binomial(n, rng.beta(0.4, 1.5, 40))
    lenient = c + rng.binomial(n - c, 0.2)
    truncated = rng.binomial(n - lenient, 0.3)
    unread = rng.binomial(n - lenient - truncated, 0.2)
    known = outcomes(n, c, num_lenient=lenient, num_truncated=truncated, num_unread=unread, num_missing=rng.integers(0, 3, 40))
    for share in signal_curve(GroupSignal(known)):
        assert share.total.low <= share.total.high <= 1.0
        if np.isfinite(share.total.estimate):
            parts = sum(part.estimate for part in share.causes.values())
            assert parts == pytest.approx(share.total.estimate, abs=0.02)
        for part in share.causes.values():
            assert 0.0 <= part.low <= part.high <= 1.0


def test_a_known_rate_is_extrapolated() -> None:
    rate, size = 0.05, 48
    c = np.random.default_rng(1).binomial(64, rate, 200)
    share = GroupSignal(outcomes(np.where(np.arange(200) % 2, 64, 32), np.where(np.arange(200) % 2, c, c // 2))).share(size)
    assert share.extrapolated
    assert share.total.low <= (1 - rate) ** size <= share.total.high


def test_right_answers_that_are_not_read_count_as_format() -> None:
    """Every sample but the successes is right under the lenient reading: each group without a success holds one."""
    found = causes(outcomes([16] * 10, [1] * 10, num_lenient=[16] * 10), 4)
    assert found[NoSignal.FORMAT] == pytest.approx(12 / 16)
    assert found[NoSignal.TOO_HARD] == found[NoSignal.TRUNCATED] == 0.0


def test_groups_without_success_are_divided_by_what_their_failures_are() -> None:
    found = causes(outcomes([8] * 6, [0] * 6, num_truncated=[4] * 6, num_unread=[2] * 6), 4)
    assert (found[NoSignal.TRUNCATED], found[NoSignal.UNREAD], found[NoSignal.TOO_HARD]) == pytest.approx((0.5, 0.25, 0.25))


def test_a_group_with_one_graded_sample_lacks_grades() -> None:
    """Half of the samples fail and half succeed, half have no grade: of pairs, a quarter are whole, and half of those differ."""
    known = outcomes([32] * 50, [16] * 50, num_missing=[32] * 50)
    found = causes(known, 2)
    whole = GroupSignal(outcomes([32] * 50, [16] * 50)).share(2).total.estimate
    assert found[NoSignal.MISSING_GRADE] == pytest.approx(0.75 * (1 - whole), abs=0.01)


def test_a_problem_without_grades_never_gives_a_signal() -> None:
    known = outcomes([16, 0], [8, 0], num_missing=[0, 16], equally=True)
    assert GroupSignal(known).problem_shares(4)[1] == pytest.approx(1.0)


def test_scores_between_0_and_1_tell_failures_apart() -> None:
    """Nothing succeeds, but half of the failures earn .5: pairs of one score are what lacks a signal."""
    ties = ScoreTies(np.repeat(np.arange(5), 2), np.array([8, 8] * 5))
    found = GroupSignal(outcomes([16] * 5, [0] * 5, failures=ties)).share(2)
    assert found.total.estimate == pytest.approx(2 * (8 * 7) / (16 * 15))
    alone = GroupSignal(outcomes([16] * 5, [0] * 5)).share(2)
    assert alone.total.estimate == pytest.approx(1.0)


def one_score_each(num_problems: int, counts: list[int]) -> ScoreTies:
    """Return failures of each problem of which these numbers have one score."""
    return ScoreTies(np.repeat(np.arange(num_problems), len(counts)), np.tile(counts, num_problems))


def test_missing_grades_leave_a_signal_where_the_scores_of_failures_differ() -> None:
    """No sample is right and no two scores are equal: a group lacks a signal only where fewer than two samples have a grade."""
    known = outcomes([16] * 20, [0] * 20, num_missing=[16] * 20, failures=one_score_each(20, [1] * 16))
    for size in (4, 8):
        found = GroupSignal(known).share(size)
        assert found.total.estimate == pytest.approx((size + 1) / 2**size)
        assert found.causes[NoSignal.MISSING_GRADE].estimate == pytest.approx(found.total.estimate)


def test_causes_beyond_the_samples_count_only_groups_of_one_score() -> None:
    n = np.tile([8, 16], 10)
    rows = np.repeat(np.arange(20), 2)
    known = outcomes(n, n * 0, num_truncated=n // 4, failures=ScoreTies(rows, n[rows] // 2), equally=False)
    found = GroupSignal(known).share(4)
    assert found.extrapolated
    assert sum(part.estimate for part in found.causes.values()) == pytest.approx(found.total.estimate, abs=0.01)
    assert found.causes[NoSignal.TRUNCATED].estimate == pytest.approx(found.total.estimate / 4, abs=0.01)


def test_the_interval_knows_that_ties_differ_between_problems() -> None:
    """Failures of half of the problems have one score, of the others scores of their own."""
    n = np.tile([8, 8, 16, 16], 5)
    counts = np.concatenate([[size] if place % 2 else [1] * size for place, size in enumerate(n)])
    rows = np.concatenate([[place] * (1 if place % 2 else size) for place, size in enumerate(n)])
    total = GroupSignal(outcomes(n, n * 0, failures=ScoreTies(rows, counts), equally=False)).share(4).total
    assert total.low < 0.3 < 0.7 < total.high


def test_ties_beyond_the_samples_are_by_their_share() -> None:
    ties = ScoreTies(np.array([0, 0, 1]), np.array([3, 1, 4]))
    assert ties.all_same(8, 3) == pytest.approx([0.75**8 + 0.25**8, 1.0, 1.0])


def test_larger_groups_carry_a_signal_more_often() -> None:
    rng = np.random.default_rng(3)
    shares = [share.total.estimate for share in signal_curve(GroupSignal(outcomes([64] * 30, rng.binomial(64, rng.random(30)))))]
    assert len(shares) == len(GROUP_SIZES)
    assert np.all(np.diff(shares) < 0)


def test_what_no_trainer_samples_is_refused() -> None:
    assert_refuses(lambda size: GroupSignal(outcomes([4, 4], [1, 2])).share(size), {"size": 2}, size=1)
    with pytest.raises(ValueError):
        GroupSignal(outcomes([0, 0], [0, 0]))


def test_intervals_hold_what_fresh_groups_show() -> None:
    """A share that many fresh groups of the same population have; benchmarks/group_signal.py measures how often."""
    rng, held = np.random.default_rng(5), 0
    for _ in range(20):
        rates = rng.beta(0.3, 1.0, 60)
        found = GroupSignal(outcomes([16] * 60, rng.binomial(16, rates))).share(8).total
        counts = rng.binomial(8, rng.beta(0.3, 1.0, 20_000))
        held += found.low - 0.005 <= np.mean((counts == 0) | (counts == 8)) <= found.high + 0.005
    assert held >= 17


def test_a_cause_that_no_sample_has_is_none_where_the_rest_is_not_known() -> None:
    share = GroupSignal(outcomes([1, 1], [0, 0])).share(32)
    assert np.isnan(share.total.estimate)
    for cause in (NoSignal.FORMAT, NoSignal.TRUNCATED, NoSignal.UNREAD, NoSignal.MISSING_GRADE):
        assert share.causes[cause].estimate == 0.0
