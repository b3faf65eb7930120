"""The role of a stage: did it bring problems into support, move probability inside it, lose support, or change nothing detectable?

The role on a behavior answers two questions, in this order (arXiv 2604.07941 names the roles and no procedure):

1. *Did anything change on these problems?* An exact test over all k at once (`permutation_test`): one and the same model, sampled twice,
   gets any role in at most 5 % of comparisons of a behavior. After adaptive sampling the posteriors of the two runs are compared instead.
2. *Where does the change lie?* The change of pass@k at the smallest k at which it shows is split into what entered support (rate below
   epsilon before), what left it (below epsilon after) and what moved inside it. A gain that mostly entered is expansion, one that mostly
   moved is reshaping; a loss that mostly left is attrition, one inside support is a reshaping for the worse. A place is named only where
   no joint distribution of rates before and after that fits the samples puts most of the change elsewhere
   (`paired_population_intervals`); otherwise it is open. A loss beside a gain is a note, since attrition is a diagnostic and no role.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import scipy
from scipy.special import ndtri

from posttrain.analysis.stats import (
    Interval,
    PermutationTest,
    paired_population_intervals,
    permutation_test,
    posterior_changes,
    samples_to_resolve,
)
from posttrain.diagnose.comparison.paired_samples import PairedCounts
from posttrain.diagnose.thresholds import ChangeThresholds

NUM_PERMUTATIONS = 999
"""1,000 with the observed one, of which 5 % is a whole number."""
_POWER = 0.8
"""With which the number of samples that is told would name the place."""

Floats = npt.NDArray[np.float64]


class ObservedRole(StrEnum):
    """Role that a comparison finds."""

    SUPPORT_EXPANSION = "support_expansion"
    POLICY_RESHAPING = "policy_reshaping"
    ATTRITION = "attrition"
    GAIN_PLACE_OPEN = "gain_place_open"
    """A gain of which the samples do not tell whether it lies inside or outside the support."""
    LOSS_PLACE_OPEN = "loss_place_open"
    """A loss of which they do not tell."""
    NOT_DISTINGUISHABLE = "not_distinguishable"
    """Not distinguishable from sampling the same model again."""


OPEN_ROLES = (ObservedRole.GAIN_PLACE_OPEN, ObservedRole.LOSS_PLACE_OPEN)


class RoleNote(StrEnum):
    """Fact beside a role."""

    GAIN_AT_LARGER_K = "gain_at_larger_k"
    """The gain shows at a larger k, not at pass@1."""
    LOWER_PASS_AT_K = "lower_pass_at_k"
    """pass@k fell at some k beside the gain."""
    PROBLEMS_LOST = "problems_lost"
    """Beside the gain, problems left support."""
    LOSSES_INSIDE_SUPPORT = "losses_inside_support"
    """Beside the gain, problems lost their last success in the samples, but most of that loss lies inside support."""
    LOSSES_PLACE_OPEN = "losses_place_open"
    """Beside the gain, problems lost their last success in the samples, which do not tell whether they left support."""
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
    k: int | None = None
    """The change is that of pass@k at this k."""
    leans_outside: bool | None = None
    """Of a change of open place: whether more of it seems to lie outside the support; None where the place is certain."""
    samples_that_tell: int | None = None
    """Of a change of open place: samples per problem at which its place would be named in 80 % of cases, if it lies where it seems to; None at
    temperature 0, where further samples are the same."""
    entered: float = float("nan")
    """Change of mean pass@k on problems that were out of support before; NaN where its place is open."""
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
    counts: PairedCounts, ks: Sequence[int], epsilon: float, thresholds: ChangeThresholds, *, rng: np.random.Generator
) -> RoleVerdict:
    """Decide the role of what changed between two runs.

    A gain counts only if it would show with every missing sample taken against it, and so does a loss.

    Args:
        counts: Samples and successes of both runs.
        ks: Attempts, increasing from 1; none above the fewest samples, except after adaptive sampling.
        epsilon: Success rate under which a problem is out of support.
        thresholds: Error of a role, and the confidence from which its place is certain.
        rng: Random generator.
    """
    tests = change_tests(counts, ks, rng)
    lowest, highest = (change_tests(one, ks, rng) for one in counts.bounds_of_change()) if counts.any_missing else (tests, tests)
    rising, falling = (dict(zip(one.names, one.adjusted_p <= thresholds.role_error, strict=True)) for one in (lowest, highest))
    rises = tuple(k for k, way in zip(ks, lowest.observed, strict=False) if rising[f"pass@{k}"] and way > 0)
    falls = tuple(k for k, way in zip(ks, highest.observed, strict=False) if falling[f"pass@{k}"] and way < 0)
    gained, lost = bool(rising.get("gained")), bool(falling.get("lost"))
    if not (rises or falls or gained or lost):
        return RoleVerdict(role=ObservedRole.NOT_DISTINGUISHABLE, gain=False, tests=tests)
    gain = bool(rises) or (gained and not falls)
    k = min(rises, default=max(ks)) if gain else min(falls, default=max(ks))
    beside = gain and lost
    outside, left_support, losses, *parts = paired_population_intervals(
        *counts.counts,
        split_change(k, epsilon, gain),
        mark=epsilon,
        num_bounded=3 if beside else 1,
        level=2 * thresholds.support_confidence - 1,
    )
    if outside.low > 0:
        role = ObservedRole.SUPPORT_EXPANSION if gain else ObservedRole.ATTRITION
    elif outside.high < 0:
        role = ObservedRole.POLICY_RESHAPING
    else:
        role = ObservedRole.GAIN_PLACE_OPEN if gain else ObservedRole.LOSS_PLACE_OPEN
    open_place = role in OPEN_ROLES
    left, inside = left_support.low * len(counts.ids) > 0.5, losses.high < 0
    notes = {
        RoleNote.GAIN_AT_LARGER_K: bool(rises) and 1 not in rises,
        RoleNote.LOWER_PASS_AT_K: bool(falls) and gain,
        RoleNote.PROBLEMS_LOST: beside and left,
        RoleNote.LOSSES_INSIDE_SUPPORT: beside and not left and inside,
        RoleNote.LOSSES_PLACE_OPEN: beside and not left and not inside,
        RoleNote.PROBLEMS_GAINED: gained and not rises,
        RoleNote.LOSS_INSIDE_SUPPORT: not gain and role is ObservedRole.POLICY_RESHAPING,
        RoleNote.UNCERTAIN_PLACE: open_place,
    }
    return RoleVerdict(
        role=role, gain=gain, k=k, leans_outside=outside.estimate > 0 if open_place else None,
        samples_that_tell=_samples_that_tell(outside, counts, epsilon, thresholds) if open_place else None,
        **dict(zip(("entered", "moved", "left"), (math.nan if open_place else one.estimate for one in parts), strict=True)),
        tests=tests, rises=rises, falls=falls, notes=tuple(note for note, holds in notes.items() if holds),
    )  # fmt: skip


def change_tests(counts: PairedCounts, ks: Sequence[int], rng: np.random.Generator) -> PermutationTest:
    """Test at once whether pass@k changed at any k.

    Where sample counts depend on outcomes, samples are not exchangeable between the two sides. The posteriors of both runs are compared
    instead, with p-values multiplied by the number of k; problems that show their first success or lose their last are not tested then.
    """
    if not counts.adaptive:
        return permutation_test(*counts.counts, list(ks), rng=rng, num_draws=NUM_PERMUTATIONS)
    deltas = posterior_changes(*counts.fits, ks, groups=counts.units)
    sizes = np.abs(deltas.estimate) / np.maximum(deltas.error, 1e-12)
    p_values = np.minimum(1.0, 2.0 * len(ks) * scipy.stats.t.sf(sizes, max(deltas.degrees, 0.5)))
    return PermutationTest(tuple(f"pass@{k}" for k in ks), deltas.estimate, np.zeros(len(ks)), p_values)


def split_change(k: int, epsilon: float, gain: bool) -> Callable[[Floats, Floats], Floats]:
    """Return the functionals of rates before and after that say where a change of pass@k lies.

    Args:
        k: Attempts.
        epsilon: Success rate under which a problem is out of support.
        gain: Whether the change is a gain.

    Returns:
        A function of rates [K] and [K]. Its six rows [6, K] are what lies outside the support less what lies inside it, of the change
        and, second, 1 for a problem that left support; third, outside less inside of the losses alone; then what entered, moved
        inside, and left.
    """

    def values(before: Floats, after: Floats) -> Floats:
        change = (1 - before) ** k - (1 - after) ** k
        was_out, is_out = before < epsilon, after < epsilon
        entered, moved, left = change * (was_out & ~is_out), change * (~was_out & ~is_out), change * (~was_out & is_out)
        outside = entered - moved if gain else moved - left
        losses = np.maximum(-change, 0.0) * ~was_out * np.where(is_out, 1.0, -1.0)
        return np.stack([outside, (~was_out & is_out).astype(np.float64), losses, entered, moved, left])

    return values


def _samples_that_tell(outside: Interval, counts: PairedCounts, epsilon: float, thresholds: ChangeThresholds) -> int:
    """Return the samples per problem at which the bound of the interval that is nearer to zero would leave it with a power of 80 %.

    Its distance from the estimate shrinks with the root of the number of samples. No more are needed than tell a single problem's rate of
    epsilon from zero, or twice as many as there are.
    """
    centre = outside.estimate
    reach = centre - outside.low if centre > 0 else outside.high - centre
    z_level, z_power = (float(ndtri(chance)) for chance in (thresholds.support_confidence, _POWER))
    growth = (reach / max(abs(centre), 1e-9) * (1 + z_power / z_level)) ** 2
    now = float(np.median(np.minimum(counts.n_before, counts.n_after)[counts.known]))
    most = max(samples_to_resolve(epsilon), 2 * now)
    return math.ceil(min(most, now * growth))
