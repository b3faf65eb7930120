"""The role of a stage: did it bring problems into support, move probability inside it, lose support, or change nothing detectable?

The role on a behavior answers two questions, in this order (arXiv 2604.07941 names the roles and no procedure):

1. *Did anything change on these problems?* An exact test over all k at once (`permutation_test`): one and the same model, sampled twice,
   gets any role in at most 5 % of comparisons of a behavior.
2. *Where does the change lie?* In the posterior of the fitted mixtures, the change of pass@k is split into what entered support (rate below
   epsilon before), what left it (below epsilon after) and what moved inside it, at the smallest k at which the change shows. A gain that
   mostly entered is expansion, one that mostly moved is reshaping; a loss that mostly left is attrition, one inside support is a reshaping
   for the worse. A loss beside a gain is a note, since attrition is a diagnostic and no role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import MixturePosterior, PermutationTest, permutation_test
from posttrain.diagnose.thresholds import ChangeThresholds

NUM_PERMUTATIONS = 999
"""1,000 with the observed one, of which 5 % is a whole number."""
_POSTERIOR_DRAWS = 2000


class ObservedRole(StrEnum):
    """Role that a comparison finds."""

    SUPPORT_EXPANSION = "support_expansion"
    POLICY_RESHAPING = "policy_reshaping"
    ATTRITION = "attrition"
    NOT_DISTINGUISHABLE = "not_distinguishable"
    """Not distinguishable from sampling the same model again."""


class RoleNote(StrEnum):
    """Fact beside a role."""

    GAIN_AT_LARGER_K = "gain_at_larger_k"
    """The gain shows at a larger k, not at pass@1."""
    LOWER_PASS_AT_K = "lower_pass_at_k"
    """pass@k fell at some k beside the gain."""
    PROBLEMS_LOST = "problems_lost"
    """More problems lost their last success than new samples of one model would show, beside the gain."""
    PROBLEMS_GAINED = "problems_gained"
    """More problems show a first success than new samples of one model would show, while no pass@k rises."""
    LOSS_INSIDE_SUPPORT = "loss_inside_support"
    """Right answers are still sampled, less often."""
    UNCERTAIN_PLACE = "uncertain_place"
    """It is not certain whether the change lies inside or outside the support."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleVerdict:
    """The role of a stage on one behavior, and its evidence."""

    role: ObservedRole
    gain: bool
    """Whether the change is a gain; False for a loss and where nothing changed."""
    probability: float = float("nan")
    """Posterior probability that the change lies where the role says; NaN where nothing changed."""
    k: int | None = None
    """The change is that of pass@k at this k."""
    entered: float = float("nan")
    """Change of mean pass@k on problems that were out of support before (posterior mean)."""
    moved: float = float("nan")
    """Change on problems in support before and after."""
    left: float = float("nan")
    """Change on problems that are out of support after."""
    tests: PermutationTest
    rises: tuple[int, ...] = ()
    """k at which pass@k rose."""
    falls: tuple[int, ...] = ()
    """k at which it fell."""
    notes: tuple[RoleNote, ...] = ()


def decide_role(
    n: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    ks: Sequence[int],
    mixtures: Sequence[MixturePosterior],
    epsilon: float,
    thresholds: ChangeThresholds,
    *,
    rng: np.random.Generator,
) -> RoleVerdict:
    """Decide the role of what changed between two runs.

    Args:
        n: [P] samples of each problem, the same on both sides.
        before: [P] successes before.
        after: [P] successes after.
        ks: Attempts, increasing from 1, none above the fewest samples.
        mixtures: The fits before and after.
        epsilon: Success rate under which a problem is out of support.
        thresholds: Error of a role, and the probability from which its place is certain.
        rng: Random generator.
    """
    tests = permutation_test(n, before, n, after, list(ks), rng=rng, num_draws=NUM_PERMUTATIONS)
    shown = tests.adjusted_p <= thresholds.role_error
    if not shown.any():
        return RoleVerdict(role=ObservedRole.NOT_DISTINGUISHABLE, gain=False, tests=tests)
    sign = np.sign(tests.observed[: len(ks)])
    rises = tuple(k for k, yes, way in zip(ks, shown, sign, strict=False) if yes and way > 0)
    falls = tuple(k for k, yes, way in zip(ks, shown, sign, strict=False) if yes and way < 0)
    gained, lost = bool(shown[-2]), bool(shown[-1])
    gain = bool(rises) or gained
    k = min(rises, default=max(ks)) if gain else min(falls, default=max(ks))
    entered, moved, left = _split_change(mixtures, epsilon, k, rng)
    outside = entered > moved if gain else left < moved
    probability = float((outside.sum() + 0.5) / (outside.size + 1))
    crossing = ObservedRole.SUPPORT_EXPANSION if gain else ObservedRole.ATTRITION
    role = crossing if probability > 0.5 else ObservedRole.POLICY_RESHAPING
    probability = max(probability, 1.0 - probability)
    notes = {
        RoleNote.GAIN_AT_LARGER_K: bool(rises) and 1 not in rises,
        RoleNote.LOWER_PASS_AT_K: bool(falls) and gain,
        RoleNote.PROBLEMS_LOST: lost and gain,
        RoleNote.PROBLEMS_GAINED: gained and not rises,
        RoleNote.LOSS_INSIDE_SUPPORT: not gain and role is ObservedRole.POLICY_RESHAPING,
        RoleNote.UNCERTAIN_PLACE: probability < thresholds.support_confidence,
    }
    return RoleVerdict(
        role=role, gain=gain, probability=probability, k=k, entered=float(entered.mean()), moved=float(moved.mean()),
        left=float(left.mean()), tests=tests, rises=rises, falls=falls, notes=tuple(note for note, holds in notes.items() if holds),
    )  # fmt: skip


def _split_change(
    mixtures: Sequence[MixturePosterior], epsilon: float, k: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Draw [D] each of the change of mean pass@k that entered support, moved inside it, and left it."""
    before, after = (mixture.draw_rates(rng=rng, num_draws=_POSTERIOR_DRAWS) for mixture in mixtures)
    change = (1 - before) ** k - (1 - after) ** k
    was_out, is_out = before < epsilon, after < epsilon
    entered = np.where(was_out & ~is_out, change, 0.0).mean(axis=1)
    left = np.where(~was_out & is_out, change, 0.0).mean(axis=1)
    return entered, np.where(~was_out & ~is_out, change, 0.0).mean(axis=1), left
