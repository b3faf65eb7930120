"""Probes: each turns samples or scores of a behavior into a measurement.

Sampling, path likelihood and validity checks are always measured. To add a further probe, write a module here with a class that meets
`base.Probe`, and give it its lines in `QUESTIONS` and `_CLASSES`; the verdict, `--dry-run` and the report then know it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.diagnose.probes.base import Probe

    PROBES: tuple[Probe, ...]

QUESTIONS: dict[str, str] = {
    "prefix_ladder": "From how much of a reference path does the model find the rest by itself?",
    "availability": "Are right paths not reached, or not taken once they are reached?",
    "decoding": "Does a cooler temperature master it without training?",
    "scaffold": "Does success depend on worked examples, a hint, a teacher's start or many attempts?",
    "drift": "What could an earlier policy do that this one lost, and how far has it moved?",
    "teacher": "Is the teacher worth distilling, and on whose samples?",
    "data": "Would training on this data set expand what the model can do, or reshape it?",
    "diversity": "In how many ways is the model right, and would guessing do as well?",
}
"""What each probe answers, in the order in which they run and are reported."""

_CLASSES = {
    "prefix_ladder": "PrefixLadder",
    "availability": "Availability",
    "decoding": "DecodingProbe",
    "scaffold": "ScaffoldProbe",
    "drift": "Drift",
    "teacher": "TeacherProbe",
    "data": "Data",
    "diversity": "Diversity",
}
"""The class of each probe, in the module of its name."""

__all__ = ["PROBES", "QUESTIONS"]


def __getattr__(name: str) -> Any:
    """Make `PROBES`, one probe of each class, when it is first used: listing the questions needs no statistics."""
    if name == "PROBES":
        modules = (importlib.import_module(f"{__name__}.{probe}") for probe in QUESTIONS)
        globals()[name] = tuple(getattr(module, _CLASSES[probe])() for module, probe in zip(modules, QUESTIONS, strict=True))
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
