"""Syntax of a gate condition: `[behavior:]metric>=number`, or `<=`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.sampling.plan import MOST_SAMPLES

SHARES = ("share_within_support", "share_missing_support", "share_poor_choice", "share_mastered")
_CONDITION = re.compile(
    r"\s*(?:(?P<behavior>.+):)?\s*(?P<metric>(?P<delta>delta\s+)?pass@(?P<k>\d+)|greedy|" + "|".join(SHARES) + r")\s*"
    r"(?P<op>>=|<=)\s*(?P<threshold>[-+]?(?:\d+\.?\d*|\.\d+))\s*"
)
ALLOWED = (
    "[BEHAVIOR:]METRIC>=NUMBER or <=, METRIC being pass@K, greedy or " + ", ".join(SHARES) + "; for a comparison delta pass@K"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One parsed condition."""

    text: str
    """As written by the user."""
    behavior: str | None
    """Name of a behavior, or a pattern such as `*`; None means every target behavior."""
    metric: str
    """`pass@16`, `delta pass@1`, `greedy`, `share_within_support`, ..."""
    k: int
    """The k of pass@k; 1 for other metrics."""
    op: str
    """`>=` or `<=`."""
    threshold: float

    @property
    def of_comparison(self) -> bool:
        """Return whether the metric is a change between two runs."""
        return self.metric.startswith("delta")


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        SettingsError: It is malformed (code `malformed_condition`), or its number is out of range (`threshold_out_of_range`).
    """
    found = _CONDITION.fullmatch(text)
    if not found or found["k"] == "0":
        raise SettingsError(f"condition: got {text!r}, allowed is {ALLOWED}", code="malformed_condition")
    metric = " ".join(found["metric"].split())
    threshold = float(found["threshold"])
    lowest = -1.0 if found["delta"] else 0.0
    if not lowest <= threshold <= 1.0:
        raise SettingsError(
            f"condition: got {text!r}, {metric} lies between {lowest:g} and 1; give a number there", code="threshold_out_of_range"
        )
    k = int(found["k"].lstrip("0") or 0) if found["k"] else 1
    if not 1 <= k <= MOST_SAMPLES:
        raise SettingsError(
            f"condition: got {text!r}; k of pass@k lies between 1 and {MOST_SAMPLES:,}", code="malformed_condition"
        )
    return Condition(
        text=text, behavior=found["behavior"], metric=f"{'delta ' if found['delta'] else ''}pass@{k}" if found["k"] else metric,
        k=k, op=found["op"], threshold=threshold,
    )  # fmt: skip
