"""The role of a stage, from counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from posttrain.analysis.stats import fit_mixture, k_grid, problem_change_tests
from posttrain.diagnose.comparison.change_role import ObservedRole, RoleNote, RoleVerdict, decide_role
from posttrain.diagnose.comparison.comparison_words import role_note_words, role_words
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import ProblemChange, default_epsilon

EPSILON = default_epsilon(8)


def decide(first: npt.ArrayLike, last: npt.ArrayLike, n: int = 64, seed: int = 0) -> RoleVerdict:
    rng = np.random.default_rng(seed)
    sizes = np.full(np.size(first), n)
    before, after = rng.binomial(sizes, np.asarray(first)), rng.binomial(sizes, np.asarray(last))
    mixtures = [fit_mixture(sizes, side, marks=[EPSILON]) for side in (before, after)]
    return decide_role(sizes, before, after, [k for k in k_grid(n, 16) if k <= n], mixtures, EPSILON, ChangeThresholds(), rng=rng)


BASE = np.random.default_rng(9).beta(0.5, 1.0, 40)


def changed(before: float, after: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Twenty problems that change, beside forty that stay."""
    return np.r_[np.full(20, before), BASE], np.r_[np.full(20, after), BASE]


@pytest.mark.parametrize(
    ("first", "last", "role", "gain"),
    [
        (*changed(0.0, 0.3), "support_expansion", True),
        (*changed(0.3, 0.8), "policy_reshaping", True),
        (*changed(0.3, 0.0), "attrition", False),
        (*changed(0.9, 0.5), "policy_reshaping", False),
        (*changed(0.3, 0.3), "not_distinguishable", False),
        (np.zeros(30), np.zeros(30), "not_distinguishable", False),
    ],
)
@pytest.mark.statistical
def test_planted_roles_are_named(first: npt.ArrayLike, last: npt.ArrayLike, role: str, gain: bool) -> None:
    verdict = decide(first, last)
    assert (verdict.role, verdict.gain) == (role, gain)
    assert np.isnan(verdict.probability) if role == "not_distinguishable" else verdict.probability > 0.9


@pytest.mark.parametrize("role", ObservedRole)
@pytest.mark.parametrize("gain", [True, False])
def test_every_role_and_note_has_words(role: ObservedRole, gain: bool) -> None:
    tests = decide(np.zeros(3), np.zeros(3)).tests
    verdict = RoleVerdict(role=role, gain=gain, probability=0.6, k=2, tests=tests, rises=(2,), falls=(4,), notes=tuple(RoleNote))
    assert role_words(verdict)
    assert len({role_note_words(note, verdict, EPSILON) for note in RoleNote}) == len(RoleNote)


def test_some_come_in_while_others_fall_out() -> None:
    first, last = np.r_[np.zeros(20), np.full(20, 0.3), BASE], np.r_[np.full(20, 0.3), np.zeros(20), BASE]
    verdict = decide(first, last)
    assert verdict.role == "support_expansion"
    assert verdict.entered > 0.05 > -0.05 > verdict.left
    assert RoleNote.PROBLEMS_LOST in verdict.notes
    assert role_words(verdict) == "expansion, with attrition"


def test_support_may_be_lost_while_pass_at_1_rises() -> None:
    first, last = np.r_[np.full(30, 0.5), np.full(30, 0.06)], np.r_[np.full(30, 0.95), np.zeros(30)]
    verdict = decide(first, last)
    assert verdict.role == "policy_reshaping"
    assert verdict.gain
    assert RoleNote.PROBLEMS_LOST in verdict.notes
    assert verdict.k == 1


def test_a_gain_may_show_at_large_k_only() -> None:
    first, last = np.r_[np.zeros(40), np.full(20, 0.6)], np.r_[np.full(40, 0.03), np.full(20, 0.54)]
    verdict = decide(first, last)
    assert verdict.role == "support_expansion"
    assert verdict.k is not None
    assert verdict.k > 1
    assert RoleNote.GAIN_AT_LARGER_K in verdict.notes


@pytest.mark.statistical
def test_one_model_twice_gets_no_role_in_19_of_20_cases() -> None:
    """More distributions and n: benchmarks/null_and_power.py."""
    rng = np.random.default_rng(3)
    claimed = 0
    for seed in range(60):
        rates = rng.beta(0.3, 1.2, 40)
        claimed += decide(rates, rates, n=16, seed=seed).role is not ObservedRole.NOT_DISTINGUISHABLE
    assert claimed / 60 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 60)


def test_a_gain_of_uncertain_place_has_a_note_with_its_probability() -> None:
    uncertain = [v for seed in range(6) if 0 < (v := decide(*changed(0.02, 0.4), n=16, seed=seed)).probability < 0.95]
    assert uncertain
    for verdict in uncertain:
        assert verdict.notes[-1] is RoleNote.UNCERTAIN_PLACE
        words = role_note_words(verdict.notes[-1], verdict, EPSILON)
        assert f"{verdict.probability:.2f}" in words
        assert "469 samples" in words


@pytest.mark.statistical
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
