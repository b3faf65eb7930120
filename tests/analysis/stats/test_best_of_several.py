"""Which of several policies may be the best, and how good the observed best is."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posttrain.analysis import stats as ps

NUM_SAMPLES = 16


def measured(
    rng: np.random.Generator, lift: NDArray[np.float64], num_problems: int = 60
) -> tuple[ps.PolicyScores, NDArray[np.float64]]:
    """Return the scores of policies that are this much better on problems of one population, and their true scores on them."""
    base = rng.beta(0.5, 0.5, (num_problems, 1))
    rates = np.clip(base + lift + rng.normal(0.0, 0.1, (num_problems, lift.size)), 0.0, 1.0)
    return ps.PolicyScores.of([ps.PolicyValues(rng.binomial(NUM_SAMPLES, rates) / NUM_SAMPLES)]), rates.mean(axis=0)


def set_of_best(scores: ps.PolicyScores) -> list[int]:
    rng = np.random.default_rng(0)
    return [index for index in range(scores.estimate.size) if ps.may_be_best(scores, index, rng=rng)]


def test_a_policy_that_is_clearly_behind_is_left_out_and_close_ones_stay() -> None:
    scores, _ = measured(np.random.default_rng(1), np.array([-0.3, 0.0, 0.01, 0.0]))
    assert set_of_best(scores) == [1, 2, 3]


def test_policies_that_cannot_be_told_apart_are_drawn_to_their_mean_and_one_alone_is_not() -> None:
    values = np.tile([0.5, 0.5, 0.5, 0.5], (40, 1)) + np.random.default_rng(2).normal(0, 0.05, (40, 4))
    scores = ps.PolicyScores.of([ps.PolicyValues(values)])
    best = int(scores.estimate.argmax())
    shrunken = ps.shrunken_score(scores, range(4), best)
    assert scores.estimate.mean() < shrunken.estimate < scores.estimate[best]
    assert shrunken.low < shrunken.estimate < shrunken.high
    assert ps.shrunken_score(scores, [best], best).estimate == scores.estimate[best]


def test_identical_policies_may_all_be_best_and_a_change_of_every_problem_is_seen() -> None:
    same = ps.PolicyScores.of([ps.PolicyValues(np.full((30, 3), 0.4))])
    assert set_of_best(same) == [0, 1, 2]
    lifted = ps.PolicyScores.of([ps.PolicyValues(np.tile([0.4, 0.7], (30, 1)))])
    assert set_of_best(lifted) == [1]


def test_behaviors_count_alike_and_related_problems_as_one() -> None:
    rng = np.random.default_rng(3)
    small, large = rng.random((5, 2)), rng.random((500, 2))
    scores = ps.PolicyScores.of([ps.PolicyValues(small), ps.PolicyValues(large)])
    assert scores.estimate == pytest.approx((small.mean(axis=0) + large.mean(axis=0)) / 2)
    repeated = ps.PolicyScores.of([ps.PolicyValues(np.repeat(small, 4, axis=0), np.repeat(np.arange(5), 4).tolist())])
    alone = ps.PolicyScores.of([ps.PolicyValues(small)])
    assert repeated.covariance == pytest.approx(alone.covariance)
    assert repeated.degrees == alone.degrees
    with pytest.raises(ValueError):
        ps.PolicyScores.of([ps.PolicyValues(small), ps.PolicyValues(large[:, :1])])
    with pytest.raises(ValueError):
        ps.shrunken_score(scores, [1], 0)


def test_a_behavior_of_few_problems_leaves_few_degrees_of_freedom() -> None:
    rng = np.random.default_rng(6)
    few, many = ps.PolicyValues(rng.random((3, 4))), ps.PolicyValues(rng.random((300, 4)))
    assert ps.PolicyScores.of([many]).degrees == pytest.approx(299.5)
    assert ps.PolicyScores.of([many, many]).degrees == pytest.approx(2 * 299.5)
    assert 2.5 < ps.PolicyScores.of([few, many]).degrees < 4.0


def test_a_level_for_several_means_lies_between_one_and_bonferroni() -> None:
    rng = np.random.default_rng(4)
    independent = rng.uniform(-0.5, 0.5, (300, 8))
    same = np.repeat(independent[:, :1], 8, axis=1) + rng.normal(0, 1e-6, (300, 8))
    several = ps.simultaneous_level(independent, rng=rng)
    assert 0.99 < several < 1 - 0.05 / 8 + 0.001
    assert ps.simultaneous_level(same, rng=rng) == pytest.approx(0.95, abs=0.01)
    assert ps.simultaneous_level(np.full((0, 3), np.nan), rng=rng) == 0.95


@pytest.mark.statistical
@pytest.mark.parametrize("lift", [np.zeros(6), np.array([-0.4, -0.2, 0.0, 0.02, 0.03, 0.03])], ids=["equal", "rising"])
def test_the_set_holds_the_best_and_half_of_the_optimism_is_gone(lift: NDArray[np.float64]) -> None:
    rng = np.random.default_rng(5)
    base = rng.beta(0.5, 0.5, (200_000, 1))
    truth = np.clip(base + lift + rng.normal(0.0, 0.1, (200_000, 1)), 0.0, 1.0).mean(axis=0)
    held, covered, raw, shrunken = [], [], [], []
    for _ in range(200):
        scores, _ = measured(rng, lift)
        found, best = set_of_best(scores), int(scores.estimate.argmax())
        value = ps.shrunken_score(scores, sorted({*found, best}), best)
        held.append(int(lift.argmax()) in found)
        covered.append(value.low <= truth[best] <= value.high)
        raw.append(scores.estimate[best] - truth[best])
        shrunken.append(value.estimate - truth[best])
    assert np.mean(held) >= 0.92
    assert np.mean(covered) >= 0.9
    assert np.mean(raw) > 0.01
    assert abs(np.mean(shrunken)) < 0.65 * np.mean(raw)
