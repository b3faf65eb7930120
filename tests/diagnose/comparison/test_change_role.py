"""The role of a stage, from counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from helpers.paired_counts import paired, until_third_success

from posttrain.analysis.stats import fit_mixture, k_grid, problem_change_tests, samples_to_resolve
from posttrain.diagnose.comparison.change_role import ObservedRole, RoleNote, RoleVerdict, decide_role
from posttrain.diagnose.comparison.comparison_words import role_note_words, role_words
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.measure.problem_changes import classify_changes
from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import ProblemChange, default_epsilon

EPSILON = default_epsilon(8)


def decide(first: npt.ArrayLike, last: npt.ArrayLike, n: int = 64, seed: int = 0, **lacking: npt.ArrayLike) -> RoleVerdict:
    rng = np.random.default_rng(seed)
    before, after = rng.binomial(n, np.asarray(first)), rng.binomial(n, np.asarray(last))
    return decide_counts(paired(n, before, n, after, **lacking), seed)  # type: ignore[arg-type]


def decide_counts(counts: PairedCounts, seed: int = 0) -> RoleVerdict:
    ks = [k for k in k_grid(16, 16) if counts.adaptive or k <= counts.fewest]
    return decide_role(counts, ks, EPSILON, ChangeThresholds(), rng=np.random.default_rng([seed, 1]))


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
    assert verdict.leans_outside is None


@pytest.mark.parametrize("role", ObservedRole)
@pytest.mark.parametrize("gain", [True, False])
def test_every_role_and_note_has_words(role: ObservedRole, gain: bool) -> None:
    tests = decide(np.zeros(3), np.zeros(3)).tests
    verdict = RoleVerdict(
        role=role, gain=gain, k=2, samples_that_tell=48, tests=tests, rises=(2,), falls=(4,), notes=tuple(RoleNote)
    )
    assert role_words(verdict)
    assert len({role_note_words(note, verdict, EPSILON) for note in RoleNote}) == len(RoleNote)


def test_some_come_in_while_others_fall_out() -> None:
    first, last = np.r_[np.zeros(20), np.full(20, 0.3), BASE], np.r_[np.full(20, 0.3), np.zeros(20), BASE]
    verdict = decide(first, last, n=128)
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


@pytest.mark.parametrize("n", [16, 64])
def test_losses_inside_support_are_no_attrition(n: int) -> None:
    """Half of the problems fall to six times epsilon while the others rise: nothing left support."""
    for seed in range(4):
        verdict = decide(np.repeat([0.15, 0.4], 30), np.repeat([0.04, 0.7], 30), n=n, seed=seed)
        assert verdict.gain
        assert RoleNote.PROBLEMS_LOST not in verdict.notes
        assert "attrition" not in role_words(verdict)
        if RoleNote.LOSSES_INSIDE_SUPPORT in verdict.notes:
            assert "losses inside support" in role_words(verdict)


def test_a_loss_inside_support_beside_a_gain_is_named_as_that() -> None:
    verdict = decide(np.repeat([0.3, 0.3], 60), np.repeat([0.03, 0.8], 60), n=64)
    assert RoleNote.LOSSES_INSIDE_SUPPORT in verdict.notes
    assert role_words(verdict) == "policy reshaping, with losses inside support"


def test_a_gain_may_show_at_large_k_only() -> None:
    first, last = np.r_[np.zeros(40), np.full(20, 0.6)], np.r_[np.full(40, 0.03), np.full(20, 0.54)]
    verdict = decide(first, last)
    assert verdict.role == "support_expansion"
    assert verdict.k is not None
    assert verdict.k > 1
    assert RoleNote.GAIN_AT_LARGER_K in verdict.notes


@pytest.mark.statistical
def test_one_model_twice_gets_no_role_in_19_of_20_cases() -> None:
    """More distributions and n: benchmarks/held_out_statistics.py."""
    rng = np.random.default_rng(3)
    claimed = 0
    for seed in range(60):
        rates = rng.beta(0.3, 1.2, 40)
        claimed += decide(rates, rates, n=16, seed=seed).role is not ObservedRole.NOT_DISTINGUISHABLE
    assert claimed / 60 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 60)


@pytest.mark.parametrize(("before", "after"), [(0.01, 0.2), (0.008, 0.3), (0.02, 0.4), (0.0, 0.2)])
def test_a_gain_whose_place_the_samples_do_not_tell_is_open(before: float, after: float) -> None:
    """A third of 60 problems rises. At 16 samples a rate of .01, inside support, looks like one of zero; neither kind is named wrongly."""
    wrong = ObservedRole.SUPPORT_EXPANSION if before > EPSILON else ObservedRole.POLICY_RESHAPING
    verdicts = [decide(*changed(before, after), n=16, seed=seed) for seed in range(5)]
    assert not any(verdict.role is wrong for verdict in verdicts)
    unsure = [verdict for verdict in verdicts if verdict.role is ObservedRole.GAIN_PLACE_OPEN]
    assert len(unsure) >= 3
    for verdict in unsure:
        assert role_words(verdict).startswith("gain, place open")
        assert verdict.notes[-1] is RoleNote.UNCERTAIN_PLACE
        assert verdict.samples_that_tell is not None
        assert 16 < verdict.samples_that_tell <= samples_to_resolve(EPSILON)
        words = role_note_words(verdict.notes[-1], verdict, EPSILON)
        assert f"{verdict.samples_that_tell:,} samples" in words
        assert ("out of support before" in words) == verdict.leans_outside


@pytest.mark.statistical
def test_a_place_that_is_named_is_right() -> None:
    """Rates just inside support that rise, and just inside that fall to it, at sizes where samples begin to tell."""
    wrong = [
        decide(*changed(*rates), n=n, seed=seed).role is role
        for rates, role in (
            ((0.008, 0.3), ObservedRole.SUPPORT_EXPANSION),
            ((0.3, 0.008), ObservedRole.ATTRITION),
            ((0.004, 0.2), ObservedRole.POLICY_RESHAPING),
        )
        for n in (32,)
        for seed in range(10)
    ]
    assert np.mean(wrong) <= 0.05


def test_missing_samples_count_against_a_role() -> None:
    """A fifth of the samples after, all failures, time out: the others seem to have risen from .5 to .625."""
    n, seen = np.full(60, 20), np.full(60, 10)
    complete = decide_counts(paired(n, seen, n - 4, seen))
    lacking = decide_counts(paired(n, seen, n - 4, seen, missing_after=np.full(60, 4)))
    assert complete.gain
    assert lacking.role is ObservedRole.NOT_DISTINGUISHABLE
    risen = decide_counts(paired(n, seen, n - 4, n - 4, missing_after=np.full(60, 4)))
    assert (risen.role, risen.gain) == (ObservedRole.POLICY_RESHAPING, True)


@pytest.mark.statistical
def test_adaptive_runs_are_compared_by_all_their_samples() -> None:
    """Problems stop at three successes: c/n is biased upwards and the fewest samples are three, yet one model twice gets no role."""
    claimed, found = 0, 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rates = rng.beta(0.6, 1.5, 60)
        sides = [until_third_success(rng, r, 48) for r in (rates, rates, np.minimum(1.0, rates + 0.2))]
        assert min(side[0].min() for side in sides) <= 4
        one, two = (decide_counts(paired(*sides[0], *sides[i], adaptive=True)) for i in (1, 2))
        claimed += one.role is not ObservedRole.NOT_DISTINGUISHABLE
        found += two.gain
    assert claimed <= 1
    assert found >= 5


@pytest.mark.statistical
def test_rises_from_zero_are_expanded_and_falls_to_zero_attrited() -> None:
    """A true rise from 0 to .1: nine of ten at 256 samples, none at 64, which do not tell 0 from epsilon."""
    rng = np.random.default_rng(4)
    for n, least in ((256, 0.9), (64, 0.0)):
        low = rng.beta(0.3, 1.2, 200)
        low[:40] = 0.0
        high = low.copy()
        high[:40] = 0.1
        sizes = np.full(200, n)
        counts = rng.binomial(sizes, low), rng.binomial(sizes, high)
        reach = [fit_mixture(sizes, side).interval_probabilities([EPSILON])[:, 1] for side in counts]
        for (one, two), wanted in (((0, 1), ProblemChange.EXPANDED), ((1, 0), ProblemChange.ATTRITED)):
            tests = problem_change_tests(sizes, counts[one], sizes, counts[two], below=EPSILON)
            states = classify_changes(reach[one], reach[two], tests.q_expansion, tests.q_attrition, ChangeThresholds())
            assert np.mean([state is wanted for state in states[:40]]) >= least
            assert n > 64 or set(states[:40]) <= {ProblemChange.UNDETERMINED}
            assert sum(state is wanted for state in states[40:]) <= 2
