"""What a run costs, in forward passes of one token, and how many steps that allows."""

from __future__ import annotations

from dataclasses import dataclass

TRAINED, GENERATED, SCORED = 3, 1, 1
"""Forward passes of a token."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Tokens of a run."""

    trained: int = 0
    generated: int = 0
    scored: int = 0

    @property
    def passes(self) -> int:
        """Forward passes of one token."""
        return TRAINED * self.trained + GENERATED * self.generated + SCORED * self.scored

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            trained=self.trained + other.trained,
            generated=self.generated + other.generated,
            scored=self.scored + other.scored,
        )

    def to_json(self) -> dict[str, int]:
        return {"trained": self.trained, "generated": self.generated, "scored": self.scored, "passes": self.passes}


def steps_for(budget: float, *, fixed: float, tried: float, num_tried: int, most: int | None) -> int:
    """Return how many steps fit a budget.

    Args:
        budget: Passes that may be spent.
        fixed: What is spent before the first step.
        tried: What the steps that were tried cost.
        num_tried: How many these were.
        most: An upper limit.
    """
    steps = int((budget - fixed) / max(tried / num_tried, 1.0))
    return max(1, steps if most is None else min(steps, most))
