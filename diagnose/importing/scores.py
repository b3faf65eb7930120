"""From the scores of a source to ours, which lie in [0, 1], and to what counts as a success."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.errors import SourceError
from posttrain.diagnose.importing.imported import ImportedSample
from posttrain.diagnose.types import SCORE_TOLERANCE, Note, reaches

Scores = npt.NDArray[np.float64]
_MOST_NAMED = 3
"""Scores that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadScores:
    """The scores of one behavior as they are stored."""

    scores: Scores
    """[N] in [0, 1]; NaN where the source has none."""
    success: float
    """The score from which on a sample is a success."""
    kept: bool
    """Whether they are the source's; else only whether each is a success."""
    notes: tuple[Note, ...] = ()


def read_scores(behavior: str, scores: Scores, success: float | None) -> ReadScores:
    """Return scores in [0, 1], and what counts as a success.

    A score of at least `success`, 1 where it is not given, is a success. Scores in [0, 1] are kept as they are. Where some lie outside, only
    whether each is a success is kept, as 1 or 0.

    Args:
        behavior: Its name, for messages.
        scores: [N] as the source has them; NaN where it has none.
        success: What the user says.

    Raises:
        SourceError: `success` is not given, and scores lie outside [0, 1] (`score_range`), or some are above 0 and none is 1
            (`no_success_score`); or it is no finite number (`success`).
    """
    if success is not None and not math.isfinite(success):
        raise SourceError(f"--success: got {success}; allowed: a number, from which score on a sample is right", code="success")
    known = scores[~np.isnan(scores)]
    if not known.size:
        return ReadScores(scores=scores, success=1.0, kept=True)
    low, high = float(known.min()), float(known.max())
    in_range = low >= -SCORE_TOLERANCE and high <= 1.0 + SCORE_TOLERANCE
    if success is None:
        if not in_range:
            raise SourceError(
                f"{behavior}: got scores from {low:g} to {high:g} ({_most_common(known)}), ours lie between 0 and 1; say from which score on a "
                f"sample is right, such as --success {high:g}",
                code="score_range",
            )
        if 0.0 < high < 1.0 - SCORE_TOLERANCE:
            raise SourceError(
                f"{behavior}: got scores from {low:g} to {high:g} ({_most_common(known)}), and none is 1; say from which score on a sample is "
                f"right, such as --success {high / 2:.2g}",
                code="no_success_score",
            )
        success = 1.0
    if in_range and 0.0 < success <= 1.0:
        partial = float(((known > SCORE_TOLERANCE) & (known < 1.0 - SCORE_TOLERANCE)).mean())
        text = f"{partial:.0%} of the scores lie between 0 and 1; a sample counts as right from {success:g} on."
        notes = (Note("partial_scores", text),) if partial > 0.0 else ()
        return ReadScores(scores=scores.clip(0.0, 1.0), success=success, kept=True, notes=notes)
    text = f"The source has scores from {low:g} to {high:g}; a score of at least {success:g} counts as right and is stored as 1, any other as 0."
    right = np.where(np.isnan(scores), np.nan, reaches(scores, success).astype(np.float64))
    return ReadScores(scores=right, success=1.0, kept=False, notes=(Note("scores_outside_range", text),))


def success_of_all(samples: Sequence[ImportedSample], success: float | None) -> float:
    """Return from which score on a sample is right, the same for every policy of a source: one that never reaches it has failed.

    Args:
        samples: Of all policies.
        success: What the user says; 1 where None.

    Raises:
        SourceError: As for `read_scores`.
    """
    of_behavior: dict[str, list[float]] = {}
    for sample in samples:
        if sample.score is not None:
            of_behavior.setdefault(sample.behavior, []).append(sample.score)
    for name, scores in of_behavior.items():
        read_scores(name, np.array(scores), success)
    return 1.0 if success is None else success


def _most_common(scores: Scores) -> str:
    """Return the most frequent scores with their shares, in words."""
    values, counts = np.unique(scores, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_NAMED]
    return "most often " + ", ".join(f"{values[i]:g}: {counts[i] / len(scores):.0%}" for i in order)
