"""The rounds that are sampled for a label or a precision, on success rates that are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from posttrain.diagnose.measure.label_posterior import PROBLEM_LABELS, LabelPosterior, label_posterior, problem_labels
from posttrain.diagnose.sampling.allocation import round_size
from posttrain.diagnose.sampling.plan import Goal, RoundReason, SampleCounts, next_round
from posttrain.diagnose.sampling.stopping import label_is_decided
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import default_epsilon

EPSILON = default_epsilon(8)
THRESHOLDS = Thresholds()


def sample_rounds(
    rates: NDArray[np.float64], goal: Goal, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], RoundReason]:
    """Sample in rounds at known success rates, and return the samples [P], the successes [P] and why the rounds ended."""
    rng = np.random.default_rng(seed)
    n, c = np.zeros(rates.size, dtype=np.int64), np.zeros(rates.size, dtype=np.int64)
    for _ in range(100):
        counts = SampleCounts(num_samples=n, num_correct=c, num_sampled=n, generated_tokens=10 * int(n.sum() + n.size))
        plan = next_round(counts, goal, epsilon=EPSILON, primary_k=16, max_tokens=10, thresholds=THRESHOLDS, seed=0)
        if plan.last:
            return n, c, plan.reason
        n, c = n + plan.extra, c + rng.binomial(plan.extra, rates)
    raise AssertionError("rounds do not end")


def test_easy_verdicts_are_cheap_and_hard_problems_get_the_samples() -> None:
    n, _, reason = sample_rounds(np.full(40, 0.4), Goal(max_tokens=10**6))
    assert n.mean() <= 12
    assert reason is RoundReason.LABEL_DECIDED
    rates = np.r_[np.full(20, 0.95), np.full(20, 0.0), np.full(2, 0.4)]
    n, c, _ = sample_rounds(rates, Goal(max_tokens=10**7))
    named = problem_labels(
        label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS).mixture.interval_probabilities([EPSILON, 0.9], strict=True),
        THRESHOLDS,
    )
    assert np.ptp(n) > 0
    assert np.mean((named >= 0) & (named != np.repeat([2, 0, 1], [20, 20, 2]))) <= 0.1


def test_a_round_is_a_third_of_what_the_undecided_problems_have() -> None:
    n, rule = np.full(40, 64), THRESHOLDS.sampling
    assert round_size(n, np.r_[np.zeros(38), 1.0, 1.0], rule) == 42
    assert round_size(n, np.r_[np.zeros(39), 1.0], rule) == rule.smallest_round
    assert round_size(n, np.ones(40), rule) == 853


@pytest.mark.statistical
def test_adaptive_sampling_labels_few_problems_at_a_threshold() -> None:
    """Half of ten problems lie at a threshold, where either label is wrong."""
    wrong = []
    for seed in range(60):
        rates = np.r_[np.full(2, EPSILON), np.full(3, 0.9), np.random.default_rng(seed).uniform(size=5)]
        n, c, _ = sample_rounds(
            rates, Goal(precision=0.01, max_tokens=10 * THRESHOLDS.sampling.max_samples * rates.size), seed=seed
        )
        known = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS)
        named = problem_labels(known.mixture.interval_probabilities([EPSILON, 0.9], strict=True), THRESHOLDS)
        truth = np.r_[np.full(5, -1), np.where(rates[5:] < EPSILON, 0, np.where(rates[5:] < 0.9, 1, 2))]
        wrong.append(float(np.mean((named >= 0) & (named != truth))))
    assert np.mean(wrong) <= 0.05


@pytest.mark.parametrize(
    ("samples", "problems", "others", "label", "decided"),
    [
        (3, 50, 0, 0, True),  # no posterior draw of 1,024 says otherwise
        (3, 50, 4, 0, False),
        (20, 50, 10, 0, True),  # one hundredth, where a quarter of .05 is allowed
        (20, 50, 20, 0, False),
        (40, 50, 40, 0, True),  # as in the last analysis
        (400, 50, 60, 0, False),
        (40, 10, 10, 0, False),  # a fifth of the problems needs five times the samples
        (200, 10, 40, 0, True),
        (400, 50, 20, 2, False),  # whether the behavior is mastered
    ],
)
def test_an_early_analysis_must_be_surer_than_a_late_one(
    samples: int, problems: int, others: int, label: int, decided: bool
) -> None:
    n = np.full(problems, samples)
    mixture = label_posterior(n, n // 2, epsilon=EPSILON, thresholds=THRESHOLDS).mixture
    labels = np.where(np.arange(1024) < others, label, 1)
    known = LabelPosterior(mixture, np.zeros((1024, 3), dtype=np.int64), np.full(1024, 0.5), labels)
    assert label_is_decided(known, n, THRESHOLDS) is decided


@pytest.mark.statistical
def test_interim_analyses_mislabel_few_borderline_behaviors() -> None:
    """Few of 40 borderline behaviors are mislabelled.

    One problem more is at 0 than at .4, the others are mastered. Interim analyses that end at a confidence of .99, early or late, and a
    smooth mixing distribution mislabelled 16.
    """
    wrong = 0
    for seed in range(40):
        n, c, _ = sample_rounds(np.repeat([0.0, 0.4, 0.97], [18, 17, 15]), Goal(max_tokens=10 * 64 * 50), seed=seed)
        known = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS)
        wrong += known.confidence >= THRESHOLDS.confidence and known.label is not PROBLEM_LABELS[0]
    assert wrong <= 4


def test_a_budget_and_the_largest_number_of_samples_end_the_rounds() -> None:
    tie = np.where(np.arange(40) < 20, 0.0, EPSILON)
    n, _, reason = sample_rounds(tie, Goal(max_tokens=3000))
    assert 10 * (n.sum() + 40) <= 3000
    assert reason is RoundReason.BUDGET_SPENT
    n, _, _ = sample_rounds(tie, Goal(precision=0.4))
    assert n.mean() <= THRESHOLDS.sampling.max_samples
    n, _, _ = sample_rounds(tie, Goal(samples=7))
    assert (n == 7).all()


def test_precision_asks_for_more_samples() -> None:
    rates = np.random.default_rng(1).uniform(0.02, 0.2, 60)
    loose, _, _ = sample_rounds(rates, Goal(precision=0.3))
    tight, _, reason = sample_rounds(rates, Goal(precision=0.09))
    assert tight.sum() > 1.3 * loose.sum()
    assert reason in (RoundReason.LABEL_DECIDED, RoundReason.NO_SAMPLE_HELPS)
