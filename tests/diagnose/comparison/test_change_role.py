"""The role of a stage, from counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from posttrain.analysis.stats import fit_mixture, k_grid, problem_change_tests
from posttrain.diagnose.comparison.change_role import RoleVerdict, decide_role
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import ProblemChange, default_epsilon

EPSILON = default_epsilon(8)


def decide(first: npt.ArrayLike, last: npt.ArrayLike, n: int = 64, seed: int = 0) -> RoleVerdict:
    rng = np.random.default_rng(seed)
    sizes = np.full(np.size(first), n)
    before, after = rng.binomial(sizes, np.asarray(first)), rng.binomial(sizes, np.asarray(last))
    mixtures = [fit_mixture(sizes, side, marks=[EPSILON]) for side in (before, after)]
    return decide_role(sizes, before, after, [k for k in k_grid(n, 16) if k <= n], mixtures, EPSILON, rng=rng)


BASE = np.random.default_rng(9).beta(0.5, 1.0, 40)


def changed(before: float, after: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Twenty problems that change, beside forty that stay."""
    return np.r_[np.full(20, before), BASE], np.r_[np.full(20, after), BASE]


@pytest.mark.parametrize(
    ("first", "last", "role", "words"),
    [
        (*changed(0.0, 0.3), "support_expansion", "expansion"),
        (*changed(0.3, 0.8), "policy_reshaping", "policy reshaping"),
        (*changed(0.3, 0.0), "attrition", "attrition"),
        (*changed(0.9, 0.5), "policy_reshaping", "policy reshaping, for the worse"),
        (*changed(0.3, 0.3), "not_distinguishable", "not distinguishable"),
        (np.zeros(30), np.zeros(30), "not_distinguishable", "not distinguishable"),
    ],
)
def test_planted_roles_are_named(first: npt.ArrayLike, last: npt.ArrayLike, role: str, words: str) -> None:
    verdict = decide(first, last)
    assert (verdict.role, verdict.words) == (role, words)
    assert np.isnan(verdict.probability) if role == "not_distinguishable" else verdict.probability > 0.9


def test_some_come_in_while_others_fall_out() -> None:
    first, last = np.r_[np.zeros(20), np.full(20, 0.3), BASE], np.r_[np.full(20, 0.3), np.zeros(20), BASE]
    verdict = decide(first, last)
    assert verdict.role == "support_expansion"
    assert verdict.words == "expansion, with attrition"
    assert verdict.entered > 0.05 > -0.05 > verdict.left
    assert any("no success any more" in note for note in verdict.notes)


def test_support_may_be_lost_while_pass_at_1_rises() -> None:
    first, last = np.r_[np.full(30, 0.5), np.full(30, 0.06)], np.r_[np.full(30, 0.95), np.zeros(30)]
    verdict = decide(first, last)
    assert verdict.role == "policy_reshaping"
    assert verdict.words == "policy reshaping, with attrition"
    assert verdict.k == 1


def test_a_gain_may_show_at_large_k_only() -> None:
    first, last = np.r_[np.zeros(40), np.full(20, 0.6)], np.r_[np.full(40, 0.03), np.full(20, 0.54)]
    verdict = decide(first, last)
    assert verdict.role == "support_expansion"
    assert verdict.k is not None
    assert verdict.k > 1
    assert any("not at pass@1" in note for note in verdict.notes)


def test_one_model_twice_gets_no_role_in_19_of_20_cases() -> None:
    """More laws and n: benchmarks/null_and_power.py."""
    rng = np.random.default_rng(3)
    claimed = 0
    for seed in range(60):
        rates = rng.beta(0.3, 1.2, 40)
        claimed += decide(rates, rates, n=16, seed=seed).role != "not_distinguishable"
    assert claimed / 60 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 60)


def test_a_kind_of_gain_that_the_samples_leave_open_is_told_with_its_probability() -> None:
    open_ones = [v for seed in range(6) if 0 < (v := decide(*changed(0.02, 0.4), n=16, seed=seed)).probability < 0.95]
    assert open_ones
    assert all("posterior probability" in v.notes[-1] and "469 samples" in v.notes[-1] for v in open_ones)


def test_rises_from_zero_are_expanded_and_falls_to_zero_attrited() -> None:
    """A true rise from 0 to .1: nine of ten at 256 samples, half at 64."""
    rng = np.random.default_rng(4)
    for n, least in ((256, 0.9), (64, 0.5)):
        low = rng.beta(0.3, 1.2, 200)
        low[:40] = 0.0
        high = low.copy()
        high[:40] = 0.1
        sizes = np.full(200, n)
        counts = rng.binomial(sizes, low), rng.binomial(sizes, high)
        reach = [fit_mixture(sizes, side, marks=[EPSILON]).interval_probabilities([EPSILON])[:, 1] for side in counts]
        for (one, two), wanted in (((0, 1), ProblemChange.EXPANDED), ((1, 0), ProblemChange.ATTRITED)):
            tests = problem_change_tests(sizes, counts[one], sizes, counts[two], below=EPSILON)
            states = classify_changes(reach[one], reach[two], tests.q_expansion, tests.q_attrition, ChangeThresholds())
            assert np.mean([state is wanted for state in states[:40]]) >= least
            assert sum(state is wanted for state in states[40:]) <= 2
