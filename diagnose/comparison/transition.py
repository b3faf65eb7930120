"""What a comparison finds about one behavior, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from posttrain.diagnose.types import Estimate, PassAtK, ProblemChange


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemChangeRow:
    """One problem before and after."""

    id: str
    before: float
    """Success rate."""
    after: float
    state: ProblemChange
    q_value: float | None = None
    """Adjusted over all problems (Benjamini–Hochberg): of a change into or out of support where a side shows a rate below epsilon, else
    of any change; None where nothing was tested."""
    num_samples: int | None = None
    """Samples behind each of the two rates; None where they are not counts."""
    group: str | None = None
    """Name of its cluster, where problems are related."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupportRow:
    """One number of support dynamics beside what the same model, sampled twice, gives at the same number of samples."""

    name: str
    """`SRR`, `NDR`, `SDS` or `NSCR`."""
    value: Estimate
    null: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class SideBySide:
    """A number that explains a difference without being the goal: length, truncation, drift."""

    name: str
    before: Estimate
    after: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonReport:
    """One behavior before and after, paired by problem."""

    name: str
    trained: bool
    """Whether a stage was trained on it; otherwise it is there to see what else changed."""
    stage: str | None
    """The stage between the two runs, None where nothing was trained."""
    num_problems: int
    """How many problems were measured in both runs."""
    pass_at_1_before: Estimate
    pass_at_1_after: Estimate
    delta: Estimate
    """Paired difference of pass@1."""
    pass_at_k_delta: tuple[PassAtK, ...] = ()
    """Paired difference of pass@k, per k."""
    pass_at_k_before: tuple[PassAtK, ...] = ()
    pass_at_k_after: tuple[PassAtK, ...] = ()
    changes: tuple[ProblemChangeRow, ...] = ()
    support: tuple[SupportRow, ...] = ()
    side_by_side: tuple[SideBySide, ...] = ()
    role: str = ""
    """What the stage did, in a few words: `expansion`, `policy reshaping`, `attrition`, `not distinguishable`."""
    num_samples: int = 0
    """Fewest samples of a problem, the same on both sides."""
    detectable_rise: float = math.nan
    """Rate from which on a problem that alone rises from 0 is found with a power of 0.8; NaN where none is."""
    notes: tuple[str, ...] = ()
    """What to keep in mind, in words."""
