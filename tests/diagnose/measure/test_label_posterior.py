"""Labels of behaviors and of problems, on counts at known success rates."""

import numpy as np
import pytest

from posttrain.diagnose.measure.label_posterior import PROBLEM_LABELS, label_posterior, labels_of, problem_labels
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, default_epsilon

EPSILON = default_epsilon(8)
THRESHOLDS = Thresholds()


def test_most_problems_that_are_not_mastered_give_the_label() -> None:
    counts = np.array([[2, 1, 2], [2, 3, 0], [0, 0, 5], [2, 2, 1]])
    assert labels_of(counts, np.array([0.5, 0.3, 0.95, 0.4]), 0.9).tolist() == [0, 1, 2, 1]


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
