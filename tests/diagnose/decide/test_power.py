"""What further samples are promised to decide, and what a design can detect."""

import numpy as np
import pytest

from posttrain.diagnose.decide.power import analyze_power, what_settles
from posttrain.diagnose.measure.label_posterior import label_posterior
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Cost, SamplingMeasurement, default_epsilon

EPSILON = default_epsilon(8)
THRESHOLDS = Thresholds()


@pytest.mark.statistical
def test_what_is_said_to_settle_a_label_does() -> None:
    rng = np.random.default_rng(5)
    settled = []
    for _ in range(6):
        rates = rng.choice([0.0, 0.08], 40, p=[0.4, 0.6])
        n = np.full(40, 8)
        c = rng.binomial(n, rates)
        zeros = np.zeros(40, dtype=np.int64)
        ids = tuple(map(str, range(40)))
        counts = SamplingMeasurement(
            problem_ids=ids, groups=ids, num_samples=n, num_correct=c, num_missing=zeros, num_unparsed=zeros,
            num_truncated=zeros, num_unfinished_thoughts=zeros, num_thought_tokens=zeros, num_lenient_correct=c, greedy_correct=zeros.astype(float), num_tokens=10 * n,
        )  # fmt: skip
        known = label_posterior(n, c, epsilon=EPSILON, thresholds=THRESHOLDS)
        if known.confidence >= THRESHOLDS.confidence:
            continue
        told = what_settles(
            known, counts, epsilon=EPSILON, thresholds=THRESHOLDS, cost=Cost(seconds=6.4, generated_tokens=3200), seed=0
        )
        if told is None:
            continue
        assert told.tokens == pytest.approx(10 * told.samples)
        assert told.seconds == pytest.approx(0.002 * told.tokens, rel=0.02)
        more = np.full(40, told.samples // 40)
        later = label_posterior(n + more, c + rng.binomial(more, rates), epsilon=EPSILON, thresholds=THRESHOLDS)
        settled.append(later.confidence >= 0.9)
        assert told.samples > 0
    assert settled
    assert np.mean(settled) >= 0.5


@pytest.mark.statistical
def test_power_is_what_a_simulation_shows() -> None:
    rng = np.random.default_rng(0)
    seen = analyze_power(50, 16, EPSILON)
    rates = rng.random((4000, 50))
    means = (rng.binomial(16, rates) / 16).mean(axis=1)
    assert seen.half_width == pytest.approx(1.96 * means.std(), rel=0.05)
    changes = ((rng.binomial(16, rates) - rng.binomial(16, rates)) / 16).mean(axis=1)
    found = np.mean(np.abs(changes + seen.minimum_detectable_change) > 1.96 * changes.std())
    assert found == pytest.approx(0.8, abs=0.04)
    assert (1 - seen.resolved_rate) ** 16 == pytest.approx(0.05)
    assert np.isnan(analyze_power(50, 2, EPSILON).minimum_detectable_rise), "two samples find nothing"
