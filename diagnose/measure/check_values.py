"""What validity checks are made of: a check, what broke in words with a code, and values that are counted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from posttrain.analysis.stats import wilson_interval
from posttrain.diagnose.types import Check, Estimate, ValidityCode, check_estimate


class Failure(NamedTuple):
    """What broke."""

    code: ValidityCode
    words: str
    """One line, with an example and the repair."""


DEPLOYMENT_POLICY = (
    "Sampled under a deployment policy (a temperature other than 1, or truncation): it says nothing about support."
)
"""What is said of samples that are none of the policy itself."""
Checked = tuple[Check, list[Failure]]
"""A check, and what broke where it is not met."""


def counted(value: float) -> Estimate:
    """Return a number that is known exactly."""
    return Estimate(estimate=value, low=value, high=value, method="counted")


def check_share(name: str, count: int, n: int, threshold: float, what: str) -> Check:
    """Check that a share of samples is not too large."""
    interval = wilson_interval(count, n)
    share = Estimate(estimate=count / n if n else np.nan, low=interval.low, high=interval.high, method="Wilson over samples")
    return check_estimate(name, "<=", share, threshold, n=n, what=what, unit="samples")


def quoted(text: str, most: int = 60) -> str:
    """Return a text on one line in quotation marks, cut to a length."""
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")
