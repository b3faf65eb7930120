"""Probes: each turns samples or scores of a behavior into a measurement.

Sampling, path likelihood and plumbing are always measured. To add a further one: write a module here with a class that meets
`probe.Probe`, and give it its line in `PROBES`; the verdict, `--dry-run` and the report then know it.
"""

from __future__ import annotations

from posttrain.diagnose.probes.probe import Probe

PROBES: tuple[Probe, ...] = ()
"""In the order in which they run and are reported."""
