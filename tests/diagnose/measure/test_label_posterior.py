"""Labels of behaviors and of problems, on counts at known success rates."""

import numpy as np
import pytest

from posttrain.diagnose.measure.label_posterior import BEHAVIOR_LABELS, PROBLEM_LABELS, label_posterior, labels_of, problem_labels
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, default_epsilon

EPSILON = default_epsilon(8)
THRESHOLDS = Thresholds()


def test_most_problems_that_are_not_mastered_give_the_label() -> None:
    counts = np.array([[9, 1, 0], [1, 9, 0], [0, 0, 10], [1, 1, 8]])
    found = labels_of(counts, np.array([0.1, 0.3, 0.95, 0.8]), 0.9, 0.2)
    assert [BEHAVIOR_LABELS[one] for one in found] == [
        Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE, Bottleneck.MASTERED, Bottleneck.POOR_CHOICE
    ]  # fmt: skip


def test_two_labels_with_a_fifth_each_are_mixed() -> None:
    counts = np.array([[2, 8, 0], [2, 0, 8], [0, 7, 3], [1, 8, 1], [2, 0, 18]])
    found = labels_of(counts, np.array([0.3, 0.7, 0.6, 0.4, 0.92]), 0.9, 0.2)
    assert [BEHAVIOR_LABELS[one] is Bottleneck.MIXED for one in found] == [True, True, True, False, False]
    assert BEHAVIOR_LABELS[found[-1]] is Bottleneck.MASTERED, "its mean is"


@pytest.mark.parametrize("other", [0.5, 0.97])
def test_a_planted_mixture_is_mixed_and_ends_sampling(other: float) -> None:
    c = np.random.default_rng(0).binomial(32, np.r_[np.zeros(20), np.full(20, other)])
    known = label_posterior(np.full(40, 32), c, epsilon=EPSILON, thresholds=THRESHOLDS)
    assert known.label is Bottleneck.MIXED
    assert known.confidence > 0.95
    assert known.sampling_confidence > 0.95
    assert known.training_shares[Bottleneck.MIXED] > 0.95


def test_a_mixture_within_reach_is_trained_as_poor_choice() -> None:
    c = np.random.default_rng(0).binomial(32, np.r_[np.full(20, 0.4), np.full(20, 0.99)])
    known = label_posterior(np.full(40, 32), c, epsilon=EPSILON, thresholds=THRESHOLDS)
    assert known.label is Bottleneck.MIXED
    assert known.training_shares[Bottleneck.POOR_CHOICE] > 0.95


def test_sampling_ends_where_the_majority_is_sure() -> None:
    """A second label holds about a fifth: whether a little more or less would take many samples."""
    c = np.random.default_rng(0).binomial(32, np.r_[np.zeros(8), np.full(32, 0.4)])
    known = label_posterior(np.full(40, 32), c, epsilon=EPSILON, thresholds=THRESHOLDS)
    assert known.confidence < 0.95 < known.sampling_confidence


@pytest.mark.parametrize(("rate", "label"), [(0.0, 0), (0.3, 1), (0.99, 2)])
def test_plain_behaviors_are_labelled(rate: float, label: int) -> None:
    c = np.random.default_rng(0).binomial(32, np.full(40, rate))
    known = label_posterior(np.full(40, 32), c, epsilon=EPSILON, thresholds=THRESHOLDS)
    assert known.label is PROBLEM_LABELS[label]
    assert known.confidence > 0.95
    assert sum(known.shares.values()) == pytest.approx(1)


def test_problems_are_labelled_where_their_label_is_sure() -> None:
    probabilities = np.array([[0.99, 0.01, 0], [0.95, 0.05, 0], [0, 0.9, 0.1], [0.3, 0.7, 0], [0, 0.02, 0.98]])
    assert problem_labels(probabilities, 0.95).tolist() == [0, 0, -1, -1, 2]
    assert problem_labels(probabilities, 0.8).tolist() == [0, 0, 1, -1, 2]


def test_rates_that_samples_cannot_tell_apart_leave_the_label_open() -> None:
    """Without a success, four samples of each of twenty problems fit rates on both sides of epsilon."""
    known = label_posterior(np.full(20, 4), np.zeros(20, dtype=np.int64), epsilon=EPSILON, thresholds=THRESHOLDS)
    assert known.label is Bottleneck.MISSING_SUPPORT
    assert known.confidence < 0.95


def test_no_problem_has_no_label() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="no problem"):
        label_posterior(nothing, nothing, epsilon=EPSILON, thresholds=THRESHOLDS)


def test_the_same_counts_give_the_same_posterior_object() -> None:
    n, c = np.full(10, 8), np.arange(10) % 8
    first = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=1)
    assert label_posterior(n.copy(), c.copy(), epsilon=EPSILON, thresholds=Thresholds(), seed=1) is first
    assert label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS, seed=2) is not first
    assert PROBLEM_LABELS[0] is Bottleneck.MISSING_SUPPORT
