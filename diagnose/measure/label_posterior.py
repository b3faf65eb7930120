"""The label of a behavior, and how sure it is, from the success rates of its problems.

Every problem has a success rate p, known up to a posterior:

* p < epsilon: out of support, a training group would hold no success (`missing_support`);
* epsilon ≤ p < mastered: reachable, unreliable (`poor_choice`);
* p ≥ mastered: `mastered`.

A behavior is `mastered` when its mean p is. Otherwise it is `mixed` where two of the three hold at least a fifth of its problems each, and else
its label is the one of the first two that holds more of its problems (arXiv 2604.07941 §7.2.1, made countable).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from posttrain.analysis.stats import MixturePosterior, fit_mixture
from posttrain.analysis.stats.mixture import MOST_CHAINS
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import Bottleneck, SamplingMeasurement

PROBLEM_LABELS = (Bottleneck.MISSING_SUPPORT, Bottleneck.POOR_CHOICE, Bottleneck.MASTERED)
BEHAVIOR_LABELS = (Bottleneck.MISSING_SUPPORT, Bottleneck.MIXED, Bottleneck.POOR_CHOICE, Bottleneck.MASTERED)
"""From what is furthest from success to what is there."""
_MISSING, _MIXED, _POOR, _MASTERED = range(len(BEHAVIOR_LABELS))


def labels_of(
    counts: npt.NDArray[np.int64], mean: npt.NDArray[np.float64], mastered: float, mixed_share: float
) -> npt.NDArray[np.int64]:
    """Label a behavior for each of D posterior draws of its problems.

    Args:
        counts: [D, 3] problems in each of `PROBLEM_LABELS`.
        mean: [D] mean success rate.
        mastered: Mean rate from which the behavior is mastered.
        mixed_share: Share of the problems that each of two labels must hold.

    Returns:
        [D] index into `BEHAVIOR_LABELS`.
    """
    mixed = np.sort(counts, axis=1)[:, -2] >= mixed_share * counts.sum(axis=1)
    return np.where(mean >= mastered, _MASTERED, np.where(mixed, _MIXED, np.where(counts[:, 0] > counts[:, 1], _MISSING, _POOR)))


def problem_labels(probabilities: npt.NDArray[np.float64], confidence: float) -> npt.NDArray[np.int64]:
    """Label the problems whose label is sure.

    Args:
        probabilities: [P, 3] posterior probability of each of `PROBLEM_LABELS`.
        confidence: Posterior probability that a label needs.

    Returns:
        [P] index into `PROBLEM_LABELS`, −1 where the problem stays undecided.
    """
    return np.where(probabilities.max(axis=1) >= confidence, probabilities.argmax(axis=1), -1)


@dataclass(frozen=True, slots=True)
class LabelPosterior:
    """What the counts say about a behavior's label."""

    mixture: MixturePosterior
    counts: npt.NDArray[np.int64]
    """[D, 3] posterior draws of how many problems are in each of `PROBLEM_LABELS`."""
    mean: npt.NDArray[np.float64]
    """[D] posterior draws of the mean success rate."""
    labels: npt.NDArray[np.int64]
    """[D] index into `BEHAVIOR_LABELS` of each posterior draw."""
    majority: npt.NDArray[np.int64]
    """[D] the same where nothing counts as mixed."""
    mixed_share: float

    @property
    def shares(self) -> dict[Bottleneck, float]:
        """Posterior probability of each label."""
        return _shares(self.labels)

    @property
    def label(self) -> Bottleneck:
        """The most probable label."""
        return BEHAVIOR_LABELS[int(np.bincount(self.labels).argmax())]

    @property
    def confidence(self) -> float:
        """The posterior probability of the label. A finite number of posterior draws proves no certainty: half a draw is left to the others."""
        return _largest(self.labels)

    @property
    def sampling_confidence(self) -> float:
        """How sure it is which label holds most problems, or that two hold a fifth each: sampling goes on until one of them is.

        Whether a second label holds a fifth or a little less changes what is advised by little, and would take many samples.
        """
        return max(_largest(self.majority), self.confidence)

    @property
    def training_shares(self) -> dict[Bottleneck, float]:
        """Posterior probability of each label as far as stages are concerned: a mixture without problems out of support is poor choice."""
        reachable = self.counts[:, 0] < self.mixed_share * self.counts.sum(axis=1)
        return _shares(np.where((self.labels == _MIXED) & reachable, _POOR, self.labels))


def _shares(labels: npt.NDArray[np.int64]) -> dict[Bottleneck, float]:
    """Return the share of posterior draws with each label."""
    counts = np.bincount(labels, minlength=len(BEHAVIOR_LABELS))
    return {label: float(count / len(labels)) for label, count in zip(BEHAVIOR_LABELS, counts, strict=True)}


def _largest(labels: npt.NDArray[np.int64]) -> float:
    """Return the probability of the most frequent label."""
    return (int(np.bincount(labels).max()) + 0.5) / (len(labels) + 1)


def label_posterior(
    num_samples: npt.NDArray[np.int64],
    num_correct: npt.NDArray[np.int64],
    *,
    epsilon: float,
    thresholds: Thresholds,
    groups: tuple[str, ...] | None = None,
    seed: int = 0,
    most_chains: int = MOST_CHAINS,
) -> LabelPosterior:
    """Fit the distribution of success rates and label every posterior draw.

    The same arguments give the same posterior, and the last ones are kept: what decided when to stop is what the verdict is made from.

    Args:
        num_samples: [P] samples with a known outcome; they may differ, and may depend on what earlier ones showed.
        num_correct: [P] successes.
        epsilon: Rate under which a problem is out of support.
        thresholds: The rest of what a label depends on.
        groups: [P] group of each problem.
        seed: Random seed of the posterior draws.
        most_chains: As for `fit_mixture`.

    Raises:
        ValueError: There is no problem, so that there is nothing to label.
    """
    if not len(num_samples):
        raise ValueError("num_samples holds no problem; a label is one of problems")
    return _fit(tuple(num_samples.tolist()), tuple(num_correct.tolist()), epsilon, thresholds, groups, seed, most_chains)


@lru_cache(maxsize=32)
def _fit(
    num_samples: tuple[int, ...],
    num_correct: tuple[int, ...],
    epsilon: float,
    thresholds: Thresholds,
    groups: tuple[str, ...] | None,
    seed: int,
    most_chains: int,
) -> LabelPosterior:
    edges = (epsilon, thresholds.mastered)
    mixture = fit_mixture(
        np.array(num_samples, dtype=np.int64),
        np.array(num_correct, dtype=np.int64),
        groups=groups,
        seed=seed,
        most_chains=most_chains,
    )
    counts, mean = mixture.draw_interval_counts(edges, rng=np.random.default_rng(seed))
    labels, majority = (labels_of(counts, mean, thresholds.mastered, share) for share in (thresholds.mixed_share, 1.0))
    return LabelPosterior(mixture, counts, mean, labels, majority, thresholds.mixed_share)


def posterior_of(measured: SamplingMeasurement, *, epsilon: float, thresholds: Thresholds, seed: int = 0) -> LabelPosterior:
    """Return the `label_posterior` of the counts of a behavior."""
    return label_posterior(
        measured.num_samples, measured.num_correct, epsilon=epsilon, thresholds=thresholds, groups=measured.groups, seed=seed
    )
