"""The label of a behavior, and how sure it is, from the success rates of its problems.

Every problem has a success rate p, known up to a posterior:

* p < epsilon: out of support, a training group would hold no success (`missing_support`);
* epsilon ≤ p < mastered: reachable, unreliable (`poor_choice`);
* p ≥ mastered: `mastered`.

A behavior is `mastered` when its mean p is; otherwise its label is the one of the other two that holds more of its problems
(arXiv 2604.07941 §7.2.1, made countable).
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


def labels_of(counts: npt.NDArray[np.int64], mean: npt.NDArray[np.float64], mastered: float) -> npt.NDArray[np.int64]:
    """Label a behavior for each of D posterior draws of its problems.

    Args:
        counts: [D, 3] problems in each of `PROBLEM_LABELS`.
        mean: [D] mean success rate.
        mastered: Mean rate from which the behavior is mastered.

    Returns:
        [D] index into `PROBLEM_LABELS`.
    """
    return np.where(mean >= mastered, 2, np.where(counts[:, 0] > counts[:, 1], 0, 1))


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
    """[D] the label of each posterior draw."""

    @property
    def shares(self) -> dict[Bottleneck, float]:
        """Posterior probability of each label."""
        counts = np.bincount(self.labels, minlength=len(PROBLEM_LABELS))
        return {state: float(count / len(self.labels)) for state, count in zip(PROBLEM_LABELS, counts, strict=True)}

    @property
    def label(self) -> Bottleneck:
        """The most probable label."""
        return PROBLEM_LABELS[int(np.bincount(self.labels, minlength=len(PROBLEM_LABELS)).argmax())]

    @property
    def confidence(self) -> float:
        """The posterior probability of the label. A finite number of posterior draws proves no certainty: half a draw is left to the others."""
        best = int(np.bincount(self.labels, minlength=len(PROBLEM_LABELS)).max())
        return (best + 0.5) / (len(self.labels) + 1)


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
    return LabelPosterior(mixture, counts, mean, labels_of(counts, mean, thresholds.mastered))


def posterior_of(measured: SamplingMeasurement, *, epsilon: float, thresholds: Thresholds, seed: int = 0) -> LabelPosterior:
    """Return the `label_posterior` of the counts of a behavior."""
    return label_posterior(
        measured.num_samples, measured.num_correct, epsilon=epsilon, thresholds=thresholds, groups=measured.groups, seed=seed
    )
