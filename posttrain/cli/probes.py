"""`posttrain probes`: what `diagnose --probes` takes."""

from __future__ import annotations

EXAMPLES = ("posttrain probes",)


def probes() -> None:
    """List the probes of `diagnose --probes` with their questions."""
    from posttrain.diagnose.probes import PROBES

    for probe in PROBES:
        print(f"{probe.name:16} {probe.question}")
