"""Every number that a verdict depends on, in one place; `run.json` records them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Every number that a verdict hangs on, but epsilon, which belongs to the behavior."""

    mastered: float = 0.9
    """Success rate from which a problem, or a behavior, needs no training."""
    confidence: float = 0.95
    """Posterior probability that a label needs; below it the verdict is inconclusive."""
    problem_error: float = 0.05
    """Share of the problems with a state that may be expected to have a wrong one; what lies at a threshold counts as wrong."""
    problem_confidence: float = 0.9
    """Posterior probability that the state of each single problem needs besides."""
    reachable: float = 0.5
    """Pass@k at the primary k from which a behavior counts as reachable on the whole."""
    max_truncated: float = 0.2
    max_unparsed: float = 0.5
    max_missing: float = 0.05
    improbable_path: float = 0.5
    """Share of reference paths with a step below epsilon, from which the paths count as out of reach."""
    level: float = 0.95
    """Of all intervals."""
    num_draws: int = 1024
    """Posterior draws; the Monte-Carlo error of a confidence is at most .016."""
