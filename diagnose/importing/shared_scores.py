"""Scores that are of several samples at once: how many of them succeeded, where that is told."""

from __future__ import annotations

from collections.abc import Sequence

_ROUNDING = 1e-6


def spread_share(texts: Sequence[str | None], share: float | None) -> list[tuple[str | None, float]] | None:
    """Return text and score of each of several samples of which a share succeeded; None where that is no whole number of samples.

    Which ones succeeded is told only where all did or none; else their texts are left out, so that none stands beside another's score.

    Args:
        texts: [n] what the model wrote.
        share: Of successes, in [0, 1].
    """
    if share is None:
        return None
    correct = round(share * len(texts))
    if abs(correct - share * len(texts)) > _ROUNDING or not 0 <= correct <= len(texts):
        return None
    alike = correct in (0, len(texts))
    return [(text if alike else None, float(i < correct)) for i, text in enumerate(texts)]
