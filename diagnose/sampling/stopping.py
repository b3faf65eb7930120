"""When sampling may end: the label is decided, or the primary metric is as precise as was asked for.

Every round is followed by an interim analysis, and repeated analyses find something by chance sooner or later. So an interim analysis must
be surer than the last one, an early one far surer (`label_is_decided`), and the mixing distribution has support points at the thresholds
(`label_posterior`). The rate of wrong verdicts at stopping is measured in `benchmarks/coverage.py`, and for borderline labels in
`benchmarks/borderline_labels.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from posttrain.diagnose.measure.label_posterior import LabelPosterior
from posttrain.diagnose.thresholds import SamplingThresholds, Thresholds
from posttrain.diagnose.types import Bottleneck


def label_is_decided(posterior: LabelPosterior, num_samples: npt.NDArray[np.int64], thresholds: Thresholds) -> bool:
    """Say whether an interim analysis may take the label for decided.

    The label rests on the distribution of success rates, and few samples leave much of that distribution to the prior: the posterior's doubt
    can then be too small. So the doubt that an analysis may leave grows with the square of the samples behind it, up to that of the last one.

    Args:
        posterior: What the samples say.
        num_samples: [P] samples with a known outcome.
        thresholds: What a label depends on.
    """
    rule = thresholds.sampling
    share = min(1.0, float(num_samples.mean()) * min(1.0, num_samples.size / rule.late_problems) / rule.late_samples)
    allowed = max(rule.early_doubt, (1.0 - thresholds.confidence) * share**2)
    mastered = posterior.shares[Bottleneck.MASTERED]
    return 1.0 - posterior.confidence <= allowed and min(mastered, 1.0 - mastered) <= rule.mastery_doubt


def pass_at_k_half_width(posterior: LabelPosterior, k: int) -> float:
    """Return half the width of the 95 % interval of pass@k."""
    interval = posterior.mixture.pass_at_k(k)
    return float(interval.high - interval.low) / 2


def removable_share(posterior: LabelPosterior, k: int) -> float:
    """Return the share of the variance of pass@k that is doubt about these problems, and not due to their small number."""
    values = 1.0 - (1.0 - posterior.mixture.grid.rates) ** k
    moments = posterior.mixture.pair_posterior @ np.stack([values, values**2], axis=1)
    weights = posterior.mixture.repeats / posterior.mixture.repeats.sum()
    within = float(weights @ (moments[:, 1] - moments[:, 0] ** 2))
    mean = float(weights @ moments[:, 0])
    between = float(weights @ (moments[:, 0] - mean) ** 2)
    return within / max(within + between, 1e-12)


def label_priority(posterior: LabelPosterior, tokens: int, thresholds: SamplingThresholds) -> float:
    """Return the priority of a behavior with an undecided label among those that share a budget; the lowest is served first.

    What a label costs is seldom known before it is decided. Behaviors that are nearest to a label and have had least are the best bets; a
    borderline one waits until the others are decided, and gets what they left.

    Args:
        posterior: What the samples say.
        tokens: Generated so far.
        thresholds: Of sampling.
    """
    return tokens / max(thresholds.least_margin, float(ndtri(posterior.confidence)))


def last_priority(tokens: int, thresholds: SamplingThresholds) -> float:
    """Return the priority of what is not about a label: that of a borderline label with as many tokens."""
    return tokens / thresholds.least_margin
