"""Mean pass@k of a behavior, with its interval: the one place where counts become a pass@k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import Interval, MixturePosterior, fit_mixture, mean_interval, pass_at_k


def estimate_pass_at_k(
    num_samples: npt.NDArray[np.int64],
    num_correct: npt.NDArray[np.int64],
    groups: Sequence[str],
    ks: Sequence[int],
    *,
    level: float,
    equally: bool,
    mixture: MixturePosterior | None = None,
) -> list[Interval]:
    """Return mean pass@k over problems for each k.

    The unbiased estimate is taken where every problem was sampled equally often and k does not exceed its samples. Unequal numbers of
    samples may have been chosen after seeing some of them, which biases plain rates, and a larger k must be extrapolated: then the fitted
    mixture is read, whose likelihood does not depend on when sampling stopped (arXiv 2510.05197).

    Args:
        num_samples: [P] samples with a known outcome.
        num_correct: [P] successes.
        groups: [P] group of each problem.
        ks: Numbers of attempts.
        level: Of the intervals.
        equally: Whether every problem was sampled equally often.
        mixture: The fit of these counts where there is one already.
    """
    sampled = num_samples[num_samples > 0]
    most = int(sampled.min()) if equally and sampled.size else 0
    unbiased = [k for k in ks if k <= most]
    others = [k for k in ks if k > most]
    found = {k: mean_interval(pass_at_k(num_samples, num_correct, k), groups, level=level) for k in unbiased}
    if others:
        fitted = mixture if mixture is not None else fit_mixture(num_samples, num_correct, groups=tuple(groups))
        found |= zip(others, fitted.pass_at_ks(others, level=level), strict=True)
    return [found[k] for k in ks]
