"""What stages did to behaviors whose bottleneck was known: gains and losses, as `benchmarks/truth` measured them.

The table beside this file holds one row for each label, number of references and stage. A gain is the share of what was missing to a pass@1 of
1 that the stage brought, so that it applies to any pass@1; a loss is by how much pass@1 of a mastered retention behavior fell. Intervals are for
a further behavior of the kind, not for the mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from posttrain.diagnose.types import Bottleneck, Estimate

METHOD = "stages run on planted behaviors"


class References(StrEnum):
    """How many train problems have a reference path."""

    NONE = "none"
    FEW = "few"
    """1 to 15."""
    SOME = "some"
    """16 to 63."""
    MANY = "many"

    @classmethod
    def of(cls, number: int) -> References:
        """Return the class of a number."""
        return next((one for one, least in reversed(list(LEAST.items())) if number >= least), cls.NONE)


LEAST: Mapping[References, int] = {References.NONE: 0, References.FEW: 1, References.SOME: 16, References.MANY: 64}
"""The smallest number of each class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEffect:
    """What one stage did to behaviors with one label."""

    gain: Estimate
    """Share of 1 − pass@1."""
    loss: Estimate
    """Fall of pass@1 of the retention behavior."""
    plants: int


@dataclass(frozen=True, slots=True)
class EffectKey:
    """What an effect depends on."""

    label: Bottleneck
    references: References
    stage: str
    retained: bool
    """Whether rows of the retention behavior were mixed in."""


Effects = Mapping[EffectKey, StageEffect]


@cache
def measured_effects() -> Effects:
    """Read the table."""
    rows = json.loads(files(__package__).joinpath("stage_effects.json").read_text())
    return {
        EffectKey(Bottleneck(row["label"]), References(row["references"]), row["stage"], row["retained"]): StageEffect(
            gain=Estimate(estimate=row["gain"], low=row["gain_low"], high=row["gain_high"], method=METHOD),
            loss=Estimate(estimate=row["loss"], low=row["loss_low"], high=row["loss_high"], method=METHOD),
            plants=row["plants"],
        )
        for row in rows
    }
