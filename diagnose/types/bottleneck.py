"""The labels of a diagnosis."""

from __future__ import annotations

from enum import StrEnum


class Bottleneck(StrEnum):
    """What keeps a behavior from success: the label of a problem or of a behavior."""

    MISSING_SUPPORT = "missing_support"
    GUIDED_ONLY = "guided_only"
    POOR_CHOICE = "poor_choice"
    ATTRITION = "attrition"
    SCAFFOLD_BOUND = "scaffold_bound"
    FORMAT = "format"
    DECODING = "decoding"
    MASTERED = "mastered"
    MIXED = "mixed"
    INVALID = "invalid"
    INCONCLUSIVE = "inconclusive"
