"""What happened to each problem between two policies, where the data can tell: preserved, expanded, attrited or out of support."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posttrain.diagnose.thresholds import ChangeThresholds
from posttrain.diagnose.types import ProblemChange


def classify_changes(
    reach_before: npt.NDArray[np.float64],
    reach_after: npt.NDArray[np.float64],
    q_expansion: npt.NDArray[np.float64],
    q_attrition: npt.NDArray[np.float64],
    thresholds: ChangeThresholds,
) -> list[ProblemChange]:
    """Say where each problem was and is.

    A problem is expanded or attrited when its own test says that its rate changed and came from, or fell to, a rate below epsilon, under
    one false-discovery rate over all problems and both directions, and both posteriors are sure that it entered or left support. What is only
    known to have risen or fallen stays undetermined.

    Args:
        reach_before: [P] posterior probability of having been in support.
        reach_after: [P] of being in support.
        q_expansion: [P] false-discovery rate at which its rate rose from below epsilon (`problem_change_tests` with `below`).
        q_attrition: [P] at which it fell below it.
        thresholds: The false-discovery rate, and when support is sure.
    """
    return [_classify(*row, thresholds) for row in zip(reach_before, reach_after, q_expansion, q_attrition, strict=True)]


def _classify(reach_before: float, reach_after: float, q_up: float, q_down: float, thresholds: ChangeThresholds) -> ProblemChange:
    sure, rate = thresholds.support_confidence, thresholds.false_discovery_rate
    if q_up <= rate and reach_before <= 1 - sure and reach_after >= sure:
        return ProblemChange.EXPANDED
    if q_down <= rate and reach_after <= 1 - sure and reach_before >= sure:
        return ProblemChange.ATTRITED
    if reach_before >= sure and reach_after >= sure:
        return ProblemChange.PRESERVED
    if reach_before <= 1 - sure and reach_after <= 1 - sure:
        return ProblemChange.OUT_OF_SUPPORT
    return ProblemChange.UNDETERMINED
