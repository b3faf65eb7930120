"""Right paths step by step, and what keeps each of them from being sampled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.engines.base import TokenScores
from posttrain.diagnose.types import Problem

CHUNKS = 8
"""Parts that a path without steps is cut into: as many rungs as the prefix ladder has."""
TRUNCATIONS: dict[str, tuple[str, float]] = {
    "top-p .95": ("top_p", 0.95),
    "top-p .9": ("top_p", 0.9),
    "top-k 50": ("top_k", 50),
    "top-k 20": ("top_k", 20),
    "min-p .05": ("min_p", 0.05),
}
"""Usual defaults of model cards and servers; the rules are those of `engines.token_sampling`."""
REFERENCE, OWN = "reference", "own"
Floats = npt.NDArray[np.float64]


class AvailabilityOutcome(StrEnum):
    """What keeps a right path, or most of those that are not likely enough, from being sampled."""

    FIRST_STEP = "first_step"
    STEP = "step"
    """A later one, whose prefix is reached."""
    CHAIN = "chain"
    """None alone, but all together."""
    REACHABLE = "reachable"
    """Nothing: it is likely enough."""
    NO_PATHS = "no_paths"


KINDS = tuple(kind for kind in AvailabilityOutcome if kind is not AvailabilityOutcome.NO_PATHS)
"""What keeps a single path from being sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """What binds a path of S steps."""

    kind: AvailabilityOutcome
    step: int
    """The step less likely than epsilon; of a chain, the one that loses the most up to where it breaks; of a reachable path, of all steps.
    Counted from 0."""
    log_reach: float
    """Log-probability of everything before that step."""
    log_local: float
    """Log-probability of that step after it."""


@dataclass(frozen=True, kw_only=True)
class SteppedPath:
    """A right path, step by step."""

    problem: Problem
    group: str
    path: str
    """`reference` or `own`."""
    whole_steps: bool
    """Whether its parts are steps, and not parts of one."""
    log_local: Floats
    """[S] log-probability of each step after everything before it."""
    worst_rank: npt.NDArray[np.int64]
    """[S] rank of the least likely token of each step; 0 is the most likely token."""
    removed_by: tuple[tuple[str, ...], ...]
    """[S] truncations that remove one of its tokens."""

    @property
    def log_reach(self) -> Floats:
        """Return [S] log-probability of everything before each step."""
        return np.concatenate([[0.0], np.cumsum(self.log_local)[:-1]])


def bind(log_local: Floats, epsilon: float) -> Binding:
    """Return what keeps a path from being sampled.

    Args:
        log_local: [S] log-probability of each step after everything before it.
        epsilon: Rate under which something is out of support.
    """
    edge, reach = np.log(epsilon), np.concatenate([[0.0], np.cumsum(log_local)])
    weakest = int(np.argmin(log_local))
    for step, local in enumerate(log_local):
        if local < edge:
            kind, weakest = (AvailabilityOutcome.STEP if step else AvailabilityOutcome.FIRST_STEP), step
            break
        if reach[step + 1] < edge:
            kind, weakest = AvailabilityOutcome.CHAIN, int(np.argmin(log_local[: step + 1]))
            break
    else:
        kind = AvailabilityOutcome.REACHABLE
    return Binding(kind=kind, step=weakest, log_reach=float(reach[weakest]), log_local=float(log_local[weakest]))


def removed_by(scores: TokenScores) -> dict[str, npt.NDArray[np.bool_]]:
    """Return truncation → [T] whether it removes each token; those that the engine cannot tell are left out."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for name, (kind, value) in TRUNCATIONS.items():
        if kind == "top_k":
            found[name] = np.asarray(scores.ranks >= value)
        elif kind == "top_p" and scores.mass_above is not None:
            found[name] = np.asarray(scores.mass_above >= value)
        elif kind == "min_p" and scores.top_logprobs is not None:
            found[name] = np.asarray(scores.logprobs < scores.top_logprobs + np.log(value))
    return found
