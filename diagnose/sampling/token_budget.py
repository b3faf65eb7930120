"""The tokens that the behaviors of a run may generate together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.sampling.plan import Goal


def too_small(got: str, needed: int) -> SettingsError:
    """Return the error that a limit does not hold what every run samples.

    Args:
        got: The limit, and what exceeds it.
        needed: Tokens from which a limit could do.
    """
    return SettingsError(
        f"--max-tokens-total: got {got}; give {needed:,} or more in a new --out, or lower --max-tokens or --limit",
        code="budget_too_small",
    )


class TokenBudget:
    """Tokens that the behaviors of a run may generate, if they are limited.

    Args:
        total: Tokens of all behaviors; None for no limit.
        behaviors: Their names.
    """

    def __init__(self, total: int | None, behaviors: Sequence[str]) -> None:
        self._total = total
        self._used = dict.fromkeys(behaviors, 0)
        self._not_sampled = set(behaviors)

    @property
    def shared(self) -> bool:
        """Whether what one behavior uses is missing to another."""
        return self._total is not None and len(self._used) > 1

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._total is not None

    def left(self) -> int | None:
        """Return the tokens that may still be generated; None where nothing limits them."""
        return None if self._total is None else self._total - sum(self._used.values())

    def record(self, behavior: str, tokens: int, *, sampled: bool = True) -> None:
        """Record all tokens that a behavior has generated so far, and whether it has had its first samples."""
        self._used[behavior] = tokens
        if sampled:
            self._not_sampled.discard(behavior)

    def check_greedy(self, expected: Mapping[str, int]) -> None:
        """Refuse a limit that the greedy samples, and one sample more of each behavior, are likely to exceed.

        Args:
            expected: Behavior → tokens that these are likely to take.

        Raises:
            SettingsError: Code `budget_too_small`.
        """
        left, needed = self.left(), sum(expected.values())
        if left is not None and needed > left:
            each = ", ".join(f"{name} {tokens:,}" for name, tokens in expected.items())
            raise too_small(
                f"{self._total:,} tokens, and by the first ones the greedy samples of {each} take about {needed:,}",
                needed + (self._total or 0) - left,
            )

    def goal_of(self, behavior: str, goal: Goal) -> Goal:
        """Return the goal of one behavior: all tokens left, or before its first samples an equal share with those that have none either."""
        left = self.left()
        if left is None:
            return goal
        share = left // len(self._not_sampled) if behavior in self._not_sampled else left
        return replace(goal, max_tokens=self._used[behavior] + max(0, share))
