"""What a stage did, to single problems and to a behavior: brought in, moved, lost, or nothing that a second draw would not show.

What happened to single problems is said in `measure.problem_changes`. The *role* on a behavior answers two questions, in this order (arXiv 2604.07941 names the roles and no procedure):

1. *Did anything change on these problems?* An exact test over all k at once (`permutation_test`): one and the same model, drawn twice, gets
   any role at all in at most 5 % of comparisons of a behavior.
2. *Where does the change lie?* In the posterior of the fitted mixtures, the change of pass@k is split into what entered support (rate
   below epsilon before), what left it (below epsilon after) and what moved inside it, at the smallest k at which the change shows. A gain
   that mostly entered is expansion, one that mostly moved is reshaping; a loss that mostly left is attrition, one inside support is
   reshaping for the worse. A loss beside a gain is a note, since attrition is a diagnostic and no role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import MixturePosterior, PermutationTest, permutation_test, samples_to_resolve
from posttrain.diagnose.thresholds import ChangeThresholds

ERROR = 0.05
"""Share of comparisons of one model with itself that may be given a role."""
FALSE_DISCOVERY_RATE = ChangeThresholds().false_discovery_rate
"""Of problems called expanded or attrited."""
DEALS = 999
"""Draws of the exchange test: 1,000 with the observed one, of which 5 % is a whole number."""
_DRAWS = 2000
_SURE = ChangeThresholds().support_confidence
"""Posterior probability from which a role needs no word of doubt."""

SUPPORT_EXPANSION = "support_expansion"
POLICY_RESHAPING = "policy_reshaping"
ATTRITION = "attrition"
NOT_DISTINGUISHABLE = "not_distinguishable"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleVerdict:
    """The role of a stage on one behavior, and what it rests on."""

    role: str
    """`support_expansion`, `policy_reshaping`, `attrition` or `not_distinguishable` (from drawing the same model again)."""
    words: str
    """The same for people, with attrition beside a gain."""
    probability: float
    """Posterior probability that the change lies where the role says; NaN where nothing changed."""
    k: int | None
    """The change is that of pass@k at this k."""
    entered: float
    """Change of mean pass@k on problems that were out of support before (posterior mean)."""
    moved: float
    """On problems in support before and after."""
    left: float
    """On problems that are out of support after."""
    tests: PermutationTest
    notes: tuple[str, ...]


def decide_role(
    n: npt.NDArray[np.int64],
    before: npt.NDArray[np.int64],
    after: npt.NDArray[np.int64],
    ks: Sequence[int],
    mixtures: Sequence[MixturePosterior],
    epsilon: float,
    *,
    rng: np.random.Generator,
) -> RoleVerdict:
    """Decide the role of whatever lies between two draws.

    Args:
        n: [P] samples of each problem, the same on both sides.
        before: [P] successes before.
        after: [P] successes after.
        ks: Attempts, rising from 1, none above the fewest samples.
        mixtures: The fits before and after.
        epsilon: Success rate under which a problem is out of support.
        rng: Where the draws come from.
    """
    tests = permutation_test(n, before, n, after, list(ks), rng=rng, num_draws=DEALS)
    shown = tests.adjusted_p <= ERROR
    sign = np.sign(tests.observed[: len(ks)])
    rises = [k for k, yes, way in zip(ks, shown, sign, strict=False) if yes and way > 0]
    falls = [k for k, yes, way in zip(ks, shown, sign, strict=False) if yes and way < 0]
    gained, lost = bool(shown[-2]), bool(shown[-1])
    if not shown.any():
        return RoleVerdict(
            role=NOT_DISTINGUISHABLE, words="not distinguishable", probability=float("nan"), k=None, entered=float("nan"),
            moved=float("nan"), left=float("nan"), tests=tests, notes=(),
        )  # fmt: skip
    gain = bool(rises) or gained
    k = min(rises, default=max(ks)) if gain else min(falls, default=max(ks))
    entered, moved, left = _parts(mixtures, epsilon, k, rng)
    outside = entered > moved if gain else left < moved
    probability = float((outside.sum() + 0.5) / (outside.size + 1))
    notes = []
    if gain:
        role = SUPPORT_EXPANSION if probability > 0.5 else POLICY_RESHAPING
        words = "expansion" if probability > 0.5 else "policy reshaping"
        if falls or lost:
            words += ", with attrition" if lost else f", lower pass@{min(falls)}"
    else:
        role = ATTRITION if probability > 0.5 else POLICY_RESHAPING
        words = "attrition" if probability > 0.5 else "policy reshaping, for the worse"
    probability = max(probability, 1.0 - probability)
    if rises and 1 not in rises:
        notes.append(f"The gain shows at pass@{min(rises)}, not at pass@1.")
    if falls and gain:
        notes.append(f"pass@{min(falls)} fell: a loss beside the gain.")
    if lost and gain:
        notes.append(
            "Problems that were solved now and then show no success any more, more of them than a second draw would lose."
        )
    if gained and not rises:
        notes.append(
            "Problems without a success before show successes, more than a second draw would show, while no pass@k rises."
        )
    if not gain and role == POLICY_RESHAPING:
        notes.append("The loss lies inside support: right answers still come up, less often.")
    if probability < _SURE:
        word = "gain" if gain else "loss"
        notes.append(
            f"That the {word} lies {'outside' if role != POLICY_RESHAPING else 'inside'} the support has a posterior probability of "
            f"{probability:.2f}; {samples_to_resolve(epsilon)} samples a problem tell a rate of {epsilon:.2g} from none."
        )
    return RoleVerdict(
        role=role, words=words, probability=probability, k=k, entered=float(entered.mean()), moved=float(moved.mean()),
        left=float(left.mean()), tests=tests, notes=tuple(notes),
    )  # fmt: skip


def _parts(
    mixtures: Sequence[MixturePosterior], epsilon: float, k: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """[D] draws each of the change of mean pass@k that entered support, moved inside it, and left it."""
    before, after = (mixture.draw_rates(rng=rng, num_draws=_DRAWS) for mixture in mixtures)
    change = (1 - before) ** k - (1 - after) ** k
    was_out, is_out = before < epsilon, after < epsilon
    entered = np.where(was_out & ~is_out, change, 0.0).mean(axis=1)
    left = np.where(~was_out & is_out, change, 0.0).mean(axis=1)
    return entered, np.where(~was_out & ~is_out, change, 0.0).mean(axis=1), left
