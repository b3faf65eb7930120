"""Probes: each turns samples or scores of a behavior into a measurement.

Sampling, path likelihood and validity checks are always measured. To add a further one: write a module here with a class that meets
`probe.Probe`, and give it its line in `PROBES`; the verdict, `--dry-run` and the report then know it.
"""

from __future__ import annotations

from posttrain.diagnose.probes.availability import Availability
from posttrain.diagnose.probes.base import Probe
from posttrain.diagnose.probes.data import Data
from posttrain.diagnose.probes.decoding import DecodingProbe
from posttrain.diagnose.probes.diversity import Diversity
from posttrain.diagnose.probes.drift import Drift
from posttrain.diagnose.probes.prefix_ladder import PrefixLadder
from posttrain.diagnose.probes.scaffold import ScaffoldProbe
from posttrain.diagnose.probes.teacher import TeacherProbe

PROBES: tuple[Probe, ...] = (
    PrefixLadder(), Availability(), DecodingProbe(), ScaffoldProbe(), Drift(), TeacherProbe(), Data(), Diversity(),
)  # fmt: skip
"""In the order in which they run and are reported."""
