"""Mean pass@k over problems with its interval: unbiased where possible, by likelihood elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.analysis.stats.arrays import IntArray
from posttrain.analysis.stats.estimators import pass_at_k
from posttrain.analysis.stats.intervals import Interval, mean_interval
from posttrain.analysis.stats.mixture import MixturePosterior, fit_mixture


def estimate_pass_at_k(
    num_samples: IntArray,
    num_correct: IntArray,
    ks: Sequence[int],
    *,
    sampled_equally: bool,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    mixture: MixturePosterior | None = None,
) -> list[Interval]:
    """Estimate mean pass@k for several k.

    Where every problem was sampled equally often and k does not exceed its samples, the unbiased estimate and an interval over problems
    are used. Elsewhere sample counts may depend on outcomes (adaptive sampling) or k exceeds them; then the fitted mixture is used, whose
    likelihood does not depend on the stopping rule (arXiv 2510.05197).

    Args:
        num_samples: [P] samples with a known outcome.
        num_correct: [P] successes.
        ks: Attempts, at least 1 each.
        sampled_equally: Whether every problem was sampled equally often.
        groups: [P] name of the group of each problem, or None.
        level: Confidence.
        mixture: The fit of the same counts where there is one already.

    Returns:
        One interval per k.
    """
    fewest = int(num_samples[num_samples > 0].min(initial=num_samples.max(initial=0)))
    counted = [k for k in ks if sampled_equally and k <= fewest]
    found = {k: mean_interval(pass_at_k(num_samples, num_correct, k), groups, level=level) for k in counted}
    if extrapolated := [k for k in ks if k not in found]:
        mixture = mixture or fit_mixture(num_samples, num_correct, groups=groups)
        found |= zip(extrapolated, mixture.pass_at_ks(extrapolated, level=level), strict=True)
    return [found[k] for k in ks]
