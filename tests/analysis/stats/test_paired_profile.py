"""Where a change lies: bounds over all joint distributions of rates before and after."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from helpers.refusals import assert_refuses

from posttrain.analysis import stats as ps

Floats = npt.NDArray[np.float64]
EPSILON = 0.0064


def entered_and_change(before: Floats, after: Floats) -> Floats:
    """[2, K] the share of problems that entered support, and the change of the rate."""
    return np.stack([((before < EPSILON) & (after >= EPSILON)).astype(np.float64), after - before])


@pytest.mark.statistical
@pytest.mark.parametrize(("low", "n"), [(0.0, 16), (0.008, 32)])
def test_intervals_cover_on_either_side_of_the_mark(low: float, n: int) -> None:
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(20):
        risen = rng.random(60) < 1 / 3
        rest = rng.beta(2.0, 3.0, 60)
        first, last = np.where(risen, low, rest), np.where(risen, 0.3, rest)
        sizes = np.full(60, n)
        found = ps.paired_population_intervals(
            sizes, rng.binomial(sizes, first), sizes, rng.binomial(sizes, last), entered_and_change, mark=EPSILON
        )
        truth = (1 / 3 if low < EPSILON else 0.0), (0.3 - low) / 3
        covered += [one.low - 1e-6 <= true <= one.high + 1e-6 for one, true in zip(found, truth, strict=True)]
    assert covered.min() >= 17


def test_what_the_samples_do_not_tell_stays_inside() -> None:
    """No success in 8 samples before: rates of zero, and just inside support, both fit."""
    entered, change = ps.paired_population_intervals([8] * 10, [0] * 10, [8] * 10, [4] * 10, entered_and_change, mark=EPSILON)
    assert entered.low < 0.05
    assert entered.high == pytest.approx(1.0, abs=0.01)
    assert 0.1 < change.low < 0.5 < change.high < 0.7
    many = ps.paired_population_intervals([64] * 60, [0] * 60, [64] * 60, [32] * 60, entered_and_change, mark=EPSILON)
    assert many[0].low > 0.8


def test_the_change_of_the_mean_is_that_of_a_t_interval() -> None:
    rng = np.random.default_rng(1)
    n, first = np.full(200, 32), rng.beta(2.0, 2.0, 200)
    c0, c1 = rng.binomial(n, first), rng.binomial(n, np.minimum(1.0, first + 0.1))
    _, change = ps.paired_population_intervals(n, c0, n, c1, entered_and_change, mark=EPSILON)
    plain = ps.paired_delta_interval(c0 / n, c1 / n)
    assert change.estimate == pytest.approx(plain.estimate, abs=0.003)
    assert change.low == pytest.approx(plain.low, abs=0.006)
    assert change.high == pytest.approx(plain.high, abs=0.006)


def test_edges() -> None:
    nothing = ps.paired_population_intervals([], [], [], [], entered_and_change, mark=EPSILON)
    assert all(np.isnan(one.estimate) for one in nothing)
    counts = {
        "n_before": [4],
        "c_before": [1],
        "n_after": [4],
        "c_after": [1],
        "functionals": entered_and_change,
        "mark": EPSILON,
    }
    assert_refuses(ps.paired_population_intervals, counts, level=0.0)
    assert_refuses(ps.paired_population_intervals, counts, c_after=[5])
