"""Probes: each turns samples or scores of a behavior into a measurement.

Sampling, path likelihood and validity checks are always measured. To add a further probe, write a module here with a class that meets
`base.Probe`, and give it its line in `_PROBES`; the verdict, `--dry-run` and the report then know it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.diagnose.probes.base import Probe

    PROBES: tuple[Probe, ...]

_PROBES = {
    "prefix_ladder": ("PrefixLadder", "From how much of a reference path does the model find the rest by itself?"),
    "availability": ("Availability", "Are right paths not reached, or not taken once they are reached?"),
    "decoding": ("DecodingProbe", "Does a cooler temperature master it without training?"),
    "scaffold": ("ScaffoldProbe", "Does success depend on worked examples, a hint, a teacher's start or many attempts?"),
    "drift": ("Drift", "What could an earlier policy do that this one lost, and how far has it moved?"),
    "teacher": ("TeacherProbe", "Is the teacher worth distilling, and on whose samples?"),
    "data": ("Data", "Would training on this data set expand what the model can do, or reshape it?"),
    "diversity": ("Diversity", "In how many ways is the model right, and would guessing do as well?"),
}
"""The class of each probe, in the module of its name, and what it answers; in the order in which they run and are reported."""

QUESTIONS: dict[str, str] = {name: question for name, (_, question) in _PROBES.items()}
"""What each probe answers, in that order."""

__all__ = ["PROBES", "QUESTIONS"]


def __getattr__(name: str) -> Any:
    """Make `PROBES`, one probe of each class, when it is first used: listing the questions needs no statistics."""
    if name == "PROBES":
        modules = {probe: importlib.import_module(f"{__name__}.{probe}") for probe in _PROBES}
        globals()[name] = tuple(getattr(modules[probe], kind)() for probe, (kind, _) in _PROBES.items())
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
