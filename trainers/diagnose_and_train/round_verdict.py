"""What a round came to, from the paired changes of pass@1: its verdict, and the utility of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.diagnose.comparison.loop_json import RoundVerdict
from posttrain.diagnose.types import Estimate, Purpose


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundChange:
    """pass@1 of one behavior over one round, paired by problem."""

    behavior: str
    purpose: Purpose
    trained: bool
    delta: Estimate
    """From the checkpoint that the round started from to its own."""
    since_start: Estimate
    """From the model that the loop started with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopCost:
    """Tokens and time of a diagnosis, of a stage, or of both."""

    generated_tokens: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Return what counts against `budget_tokens`."""
        return self.generated_tokens + self.trained_tokens

    def __add__(self, other: LoopCost) -> LoopCost:
        """Return the sum."""
        return LoopCost(
            generated_tokens=self.generated_tokens + other.generated_tokens,
            trained_tokens=self.trained_tokens + other.trained_tokens,
            seconds=self.seconds + other.seconds,
        )


def rose(change: Estimate) -> bool:
    """Return whether pass@1 rose: the whole interval lies above 0."""
    return change.low > 0.0


def fell(change: Estimate | None) -> bool:
    """Return whether pass@1 fell: the whole interval lies below 0."""
    return change is not None and change.high < 0.0


def round_gained(changes: Sequence[RoundChange]) -> bool:
    """Return whether a trained behavior rose."""
    return any(change.trained and rose(change.delta) for change in changes)


def round_verdict(changes: Sequence[RoundChange], *, moved: bool, weight: float = 1.0) -> RoundVerdict:
    """Return what a round came to.

    Args:
        changes: Of all behaviors that were measured before and after it.
        moved: Whether training moved the model.
        weight: λ, of a fall of the retention behaviors.
    """
    gained = round_gained(changes)
    if not moved and not gained:
        return RoundVerdict.HARDLY_MOVED
    if any(fell(change.delta) for change in changes) and utility(changes, lambda change: change.delta, weight).estimate < 0.0:
        return RoundVerdict.COST_MORE
    return RoundVerdict.HELPED if gained else RoundVerdict.BROUGHT_NOTHING


def utility(changes: Sequence[RoundChange], of: Callable[[RoundChange], Estimate], weight: float = 1.0) -> Estimate:
    """Return the mean gain of the targets less λ times the mean loss of retention, in pass@1.

    A rise on retention counts like a fall: cutting it off at 0 would make every noisy measurement a loss. The interval takes the behaviors
    as independent.

    Args:
        changes: Of all behaviors.
        of: Which of its changes counts.
        weight: λ.
    """
    sides = [
        (1.0, [of(change) for change in changes if change.purpose is Purpose.TARGET]),
        (weight, [of(change) for change in changes if change.purpose is Purpose.RETENTION]),
    ]
    weighed = [(share / len(values), value) for share, values in sides for value in values if values]
    estimate = sum(share * value.estimate for share, value in weighed)
    down = math.sqrt(sum((share * (value.estimate - value.low)) ** 2 for share, value in weighed))
    up = math.sqrt(sum((share * (value.high - value.estimate)) ** 2 for share, value in weighed))
    method = "mean gain of targets less mean loss of retention"
    return Estimate(estimate=estimate, low=estimate - down, high=estimate + up, method=method)
